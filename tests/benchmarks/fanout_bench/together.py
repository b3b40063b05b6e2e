"""Capture and training of a run, without evaluation and export, as `stillhouse run` does them.

python tests/benchmarks/fanout_bench/together.py CONFIG
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.config.loading import load_config
from orchestrator.driver.loop import watch
from orchestrator.driver.pipeline import begin_captures, freeze_prompts, make_initial_weights
from orchestrator.driver.session import open_session
from orchestrator.driver.trainings import Trainings
from orchestrator.preflight.place import Needs
from orchestrator.stages.preparing.preparation import Preparation


def main() -> None:
    """Ends in an error if a student does."""
    file = load_config(Path(sys.argv[1]), sys.argv[2:])
    with open_session(file, [], Needs(teachers=True, students=True)) as session:
        session.ctx.come_to("prepare")
        with Preparation(session.ctx, initials=True) as preparation:
            preparation.try_out()
            declared = freeze_prompts(session, preparation)
            captures = begin_captures(session)
            make_initial_weights(session, preparation, declared.vocabulary)
        watch(session, captures, Trainings(session.ctx, [], declared, session.failures, repairs=True))
    assert not session.failures, session.failures


if __name__ == "__main__":
    main()
