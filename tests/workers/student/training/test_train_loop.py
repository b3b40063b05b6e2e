"""What the train loop says when a loss or a gradient is NaN or Inf."""

from __future__ import annotations

import math

import pytest

from workers.student.training.job import SpecialistJob, bad_step
from workers.targets.contract import Contract


@pytest.mark.parametrize(("step", "remedy"), [(1, "weights it starts from"), (7, "train.lr")])
def test_a_loss_that_is_no_number_names_the_remedy(step: int, remedy: str) -> None:
    declared = Contract("tokenizer", "template", "systematic", 97, {})
    job = SpecialistJob("legal", "runs/job", "students/legal/initial", {"legal": 1.0}, {}, {}, 0, declared, 1, "")
    message = str(bad_step(job, step, math.nan, math.nan))
    assert message.startswith(f"legal: the loss of step {step} is nan; ") and remedy in message
    assert message.endswith(f"students/legal/failed-step-{step}.json")
    message = str(bad_step(job, step, 0.5, math.inf))
    assert message.startswith(f"legal: the gradient of step {step} is NaN or Inf (norm inf), though its loss is 0.5; ")
