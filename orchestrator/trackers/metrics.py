"""The numbers that trackers are told of a run, with their names in trackers and in Prometheus."""

from __future__ import annotations

from dataclasses import dataclass

RAY_PREFIX = "ray_"
"""What Ray puts before the name of every metric that it exports."""


@dataclass(frozen=True)
class Metric:
    """One number."""

    key: str
    """Its name in trackers; a teacher's is below the teacher's name."""
    gauge: str
    """Its name in Prometheus, without Ray's prefix."""
    meaning: str


LOSS = Metric("train/loss", "stillhouse_student_loss", "Training loss of a step, a mean over its target tokens")
GRAD_NORM = Metric("train/grad_norm", "stillhouse_student_grad_norm", "Norm of the gradient of a step before clipping")
LR = Metric("train/lr", "stillhouse_student_lr", "Learning rate of a step")
TOKENS = Metric("train/tokens", "stillhouse_student_tokens", "Target tokens trained on")
TOKENS_PER_S = Metric(
    "train/tokens_per_s", "stillhouse_student_tokens_per_second", "Target tokens trained on a second, lately"
)
WAITED = Metric("train/waited_s", "stillhouse_student_waited_seconds", "Seconds that steps waited for their texts")
FIRST_KL = Metric(
    "train/first_kl",
    "stillhouse_student_first_kl",
    "KL(teacher || student) before training, nats a token of the first batch",
)
KL = Metric("heldout/kl", "stillhouse_heldout_kl", "KL(teacher || student) on held-out text, nats a token")
KL_LOW = Metric("heldout/kl_low", "stillhouse_heldout_kl_low", "Lower end of the 95 % interval of heldout/kl")
KL_HIGH = Metric("heldout/kl_high", "stillhouse_heldout_kl_high", "Upper end of the 95 % interval of heldout/kl")
INITIAL_KL = Metric("heldout/initial_kl", "stillhouse_heldout_initial_kl", "heldout/kl of the initial weights")
RETENTION = Metric("gate/retention", "stillhouse_gate_retention", "Score over the teacher's on tasks")
PASSED = Metric("gate/passed", "stillhouse_gate_passed", "Whether it passes the gate: 1 or 0")

UNITS = Metric("units", "stillhouse_teacher_units", "Units that a teacher has committed")
TARGETS = Metric("targets", "stillhouse_teacher_targets", "Target tokens that a teacher has committed")
TARGETS_PER_S = Metric(
    "targets_per_s", "stillhouse_teacher_targets_per_second", "Target tokens that a teacher commits a second, lately"
)
REPLICAS = Metric("replicas", "stillhouse_teacher_replicas", "Replicas of a teacher at work")

OF_STEPS = (LOSS, GRAD_NORM, LR, TOKENS, TOKENS_PER_S, WAITED)
OF_SCORES = (KL, KL_LOW, KL_HIGH, INITIAL_KL, RETENTION, PASSED)
OF_TEACHERS = (UNITS, TARGETS, TARGETS_PER_S, REPLICAS)
METRICS = (*OF_STEPS, FIRST_KL, *OF_SCORES, *OF_TEACHERS)
