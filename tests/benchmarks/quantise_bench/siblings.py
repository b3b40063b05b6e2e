"""A quantised sibling of a finished run's specialist, trained and scored, and one that goes on with whole weights.

python tests/benchmarks/quantise_bench/siblings.py RUN SPECIALIST SETTINGS SEED [alone]

SETTINGS is the JSON of a specialist's `quantised`. SEED is a number, or `own`, the run's. With a number other than the
run's the specialist is trained anew first, from the run's store and its first weights. `alone`: none goes on with whole
weights.

Prints one JSON object: KL to the teacher in nats a token on the specialist's own held-out texts, of itself (`whole`),
rounded (`ptq`), of its sibling (`qad`), and of one that is trained as that is but for the lattice (`further`), also
when that is rounded (`further ptq`); and paired 95 % intervals of differences.
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
    seed = None if sys.argv[4] == "own" else int(sys.argv[4])
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    join_process_group(0, 1, "127.0.0.1", 0, "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        run = FinishedRun(source, Path(folder, "run"), name, seed)
        student = run.sibling(settings)
        done = run.train(student)
        found = run.scores(settings)
        train = student.config.train.model_copy(update={"quantise": None})
        scores = {"whole": found[name], "ptq": found[f"{name}.ptq"], "qad": found[student.name]}
        if sys.argv[5:] != ["alone"]:
            run.train(replace(student, config=student.config.model_copy(update={"train": train})))
            later = run.scores(settings)
            scores |= {"further": later[student.name], "further ptq": later[f"{student.name}.ptq"]}
    facts = {"seed": run.seed, "tokens": done["tokens"], "steps": done["steps"], "lr": train.lr}
    print(json.dumps(facts | _figures(scores)))


def _figures(scores: dict[str, DomainScores]) -> dict[str, Any]:
    figures: dict[str, Any] = {n: summarise(s, RESAMPLES, 0)["kl"] for n, s in scores.items()}
    pairs = [(n, "whole") for n in scores if n != "whole"]
    for one, other in pairs + [("qad", n) for n in scores if n not in ("whole", "qad")]:
        found = paired_differences(scores[one], scores[other], RESAMPLES, 0)
        kl, sure = found["kl"], found["overconfidence_to_teacher"]
        figures[f"{one} - {other}"] = [kl.value, kl.low, kl.high]
        figures[f"{one} - {other}, overconfidence"] = sure.value
    share = paired_share(scores["qad"], scores["ptq"], scores["whole"], RESAMPLES, 0)
    return figures | {"qad_over_ptq": [share.value, share.low, share.high]}


if __name__ == "__main__":
    main()
