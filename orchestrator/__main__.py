"""`python -m orchestrator` is the `stillhouse` command."""

from orchestrator.cli import main

main()
