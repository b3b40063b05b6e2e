"""When a checkpoint is written, and what ranks agree on that were asked for one at different moments."""

from __future__ import annotations

import itertools

import pytest

from workers.student.config import TrainConfig
from workers.student.training.cadence import Asked, Cadence, of_all
from workers.student.training.learned import Diverged, check_course


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_what_any_rank_heard_is_what_all_act_on(ranks: int) -> None:
    possible = (Asked.NOTHING, Asked.CHECKPOINT, Asked.LEAVE, Asked.CHECKPOINT | Asked.LEAVE)
    for heard in itertools.product(possible, repeat=ranks):
        union = Asked.NOTHING
        for one in heard:
            union |= one
        assert of_all(sum(int(one) for one in heard)) == union


def test_a_checkpoint_that_was_asked_for_changes_nothing_of_those_that_are_due() -> None:
    train = TrainConfig(checkpoint_steps=4)
    plain, resumed = (Cadence(train, 0, 1, "cpu") for _ in range(2))
    for step in (1, 2, 3):
        plain.note(float(step))
    resumed.restart(plain.progress)
    for cadence in (plain, resumed):
        cadence.note(4.0)
        assert cadence.due(4) and cadence.loss == 2.5
        cadence.restart()
        assert cadence.progress == (0, 0.0)


def course(*means: float, diverged: int | None = 3) -> list[int]:
    """Checks in a row above the first step's loss of 1, at each checkpoint."""
    above, found = 0, []
    for mean in means:
        above = check_course("legal", 1.0, mean, above, TrainConfig(diverged=diverged))
        found.append(above)
    return found


def test_a_loss_that_stays_far_above_its_first_ends_the_training_and_a_peak_does_not() -> None:
    assert course(1.5, 2.5, 9.0, 0.5, 3.0, 3.0, 1.9) == [0, 1, 2, 0, 1, 2, 0]
    assert course(*[9.0] * 20, diverged=None) == [0] * 20
    with pytest.raises(Diverged, match=r"legal: its loss is 5, at 3 checkpoints in a row over 2 times"):
        course(3.0, 4.0, 5.0)


def test_a_student_that_begins_as_good_as_it_gets_does_not_diverge_by_rounding() -> None:
    assert check_course("legal", 0.0, 5e-4, 2, TrainConfig()) == 0
