"""`python -m orchestrator` is the `stillhouse` command."""

from orchestrator.cli.app import main

main()
