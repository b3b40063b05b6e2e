"""A quantised sibling of a finished run's specialist, trained and scored, and one that goes on with whole weights.

python tests/benchmarks/quantise_bench/siblings.py RUN SPECIALIST SETTINGS

SETTINGS is the JSON of a specialist's `quantised`. Prints one JSON object: KL to the teacher in nats a token on the
specialist's own held-out texts, of itself (`whole`), rounded (`ptq`), of its sibling (`qad`), and of one that is
trained as that is but for the lattice (`further`), also when that is rounded (`further ptq`); and paired 95 % intervals
of differences.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import deepspeed
import torch
from transformers.utils import logging

from quantise_bench.finished_run import FinishedRun
from workers.evaluation.metrics.domain_scores import DomainScores, paired_differences, paired_share, summarise
from workers.quantise.config import QuantisedConfig
from workers.teacher.engines.loading import join_process_group

RESAMPLES = 1000


def main() -> None:
    """Train and score both."""
    source, name = Path(sys.argv[1]), sys.argv[2]
    settings = QuantisedConfig.model_validate_json(sys.argv[3])
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    join_process_group(0, 1, "127.0.0.1", 29678, "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        run = FinishedRun(source, Path(folder, "run"), name)
        student = run.sibling(settings)
        done = run.train(student)
        found = run.scores(settings)
        train = student.config.train.model_copy(update={"quantise": None})
        run.train(replace(student, config=student.config.model_copy(update={"train": train})))
        later = run.scores(settings)
    scores = {"whole": found[name], "ptq": found[f"{name}.ptq"], "qad": found[student.name]}
    scores |= {"further": later[student.name], "further ptq": later[f"{student.name}.ptq"]}
    facts = {"seed": run.seed, "tokens": done["tokens"], "steps": done["steps"], "lr": train.lr}
    print(json.dumps(facts | _figures(scores)))


def _figures(scores: dict[str, DomainScores]) -> dict[str, Any]:
    figures: dict[str, Any] = {n: summarise(s, RESAMPLES, 0)["kl"] for n, s in scores.items()}
    for one, other in (
        *((n, "whole") for n in scores if n != "whole"),
        ("qad", "ptq"),
        ("qad", "further"),
        ("qad", "further ptq"),
    ):
        found = paired_differences(scores[one], scores[other], RESAMPLES, 0)
        kl, sure = found["kl"], found["overconfidence_to_teacher"]
        figures[f"{one} - {other}"] = [kl.value, kl.low, kl.high]
        figures[f"{one} - {other}, overconfidence"] = sure.value
    share = paired_share(scores["qad"], scores["ptq"], scores["whole"], RESAMPLES, 0)
    return figures | {"qad_over_ptq": [share.value, share.low, share.high]}


if __name__ == "__main__":
    main()
