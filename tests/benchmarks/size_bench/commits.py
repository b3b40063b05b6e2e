"""The share of an engine's time that is lost to commits, on a real model in a rank of its own: units committed one
after another, their texts made with transformers, as it was; and beside the next unit, with tokenizers alone.

An engine's time is from its first unit to its last commit; what it does not spend on making units is lost. On a CPU a
token takes so long that commits hardly show, so `commit_share_at_5k_*` reckons them, by their seconds a token, for a
GPU that makes 5,000 tokens a second: before, all of a commit's seconds are lost; after, those beyond the time that the
next unit takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.lease import Fence
from cluster.storage import LocalStorage
from workers.channels.board import Reporter
from workers.manifest import write_manifest
from workers.model_files import token_ids
from workers.splits import TRAIN
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.detokenize import split, texts_and_ends
from workers.teacher.groups.fault_tolerant_group import Answer, FaultTolerantGroup
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.replica import calls_at_once
from workers.teacher.units.unit_runner import UnitRunner
from workers.units import Prompt, UnitSize, build_units

_PROMPT = 8
_GPU_TOKENS_S = 5000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `measure`, beside `--model FOLDER`."""
    parser.add_argument("--commit-units", type=int, default=4)
    parser.add_argument("--commit-texts", type=int, default=32, help="of a unit")
    parser.add_argument("--commit-tokens", type=int, default=48, help="of an answer")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """{commit_share_before, commit_share_after}, seconds a token, and shares at a GPU's speed."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        return _measure(arguments)
    finally:
        ray.shutdown()


def _measure(options: argparse.Namespace) -> dict[str, float]:
    config = TeacherConfig(model=str(options.model), batch=options.commit_texts)
    place = placement_group([{"CPU": 1}])
    group = FaultTolerantGroup(config, "teacher", place=lambda: place, say=print)
    group.start()
    try:
        before = _run(options, _InRank(group, options.model), calls=1)
        after = _run(options, _Timed(group), calls=calls_at_once(config))
    finally:
        group.close()
        remove_placement_group(place)
    token_s = 1 / _GPU_TOKENS_S
    return {
        "commit_share_before": round(before.lost / before.wall, 5),
        "commit_share_after": round(after.lost / after.wall, 5),
        "commit_us_per_token_before": round(1e6 * before.commit / before.tokens, 2),
        "commit_us_per_token_after": round(1e6 * after.commit / after.tokens, 2),
        "engine_tokens_per_s": round(before.tokens / before.made, 1),
        "commit_share_at_5k_before": round(before.commit / (before.commit + before.tokens * token_s), 4),
        "commit_share_at_5k_after": round(1 - token_s / max(token_s, after.commit / after.tokens), 4),
    }


class _Timed:
    """A worker group, and the time that it makes units."""

    def __init__(self, group: FaultTolerantGroup) -> None:
        self._group = group
        self.made = self.detokenising = self.wall = self.commit = 0.0
        self.tokens = 0

    @property
    def lost(self) -> float:
        """Seconds in which no token was made."""
        return self.wall - self.made

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        return self._group.run(requests, spec)

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        began = time.perf_counter()
        answer = self._group.capture(unit, requests, spec, then)
        self.made += time.perf_counter() - began
        self.tokens += int(answer.targets.lengths.sum())
        return answer

    def detokenize(self, targets: UnitTargets) -> None:
        self._group.detokenize(targets)


class _InRank(_Timed):
    """As it was: texts are made with transformers before anything else runs. It was the rank that did so; here it is
    this process, on the same kind of core."""

    def __init__(self, group: FaultTolerantGroup, model: Path) -> None:
        from transformers import AutoTokenizer

        super().__init__(group)
        self._tokenizer = AutoTokenizer.from_pretrained(model)

    def detokenize(self, targets: UnitTargets) -> None:
        targets.texts, targets.ends = texts_and_ends(self._tokenizer, split(targets.tokens, targets.lengths))


def _run(options: argparse.Namespace, maker: _Timed, calls: int) -> _Timed:
    """Capture all units with so many calls at once; the first unit, in which things are loaded, does not count."""
    vocabulary = max(token_ids(options.model).values()) + 1
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        rng, count = np.random.default_rng(0), (options.commit_units + 1) * options.commit_texts
        most = options.commit_tokens
        prompts = [
            Prompt(
                f"{i:06d}", ("a",), "t", 1, 1.0, 1.0, most, rng.integers(3, vocabulary, _PROMPT).tolist(), None, most
            )
            for i in range(count)
        ]
        plan, blocks = build_units(prompts, {}, {"t": UnitSize(options.commit_texts)}, 0, TRAIN)
        write_manifest(storage, plan, blocks)
        TargetStore(storage, TRAIN).create(
            StoreHeader("systematic", 21, "answer", "float32", vocabulary, "tokenizer", "template", 7)
        )
        runner = _Runner(
            storage, maker, Fence(storage, 1), Reporter(""), teacher="t", fingerprint="f", rules=AnswerRules()
        )
        runner.capture([(TRAIN, 0, 0)])
        maker.made, maker.tokens, runner.commit_s = 0.0, 0, 0.0
        began = time.perf_counter()
        with ThreadPoolExecutor(calls) as pool:
            assert all(pool.map(runner.capture, [[(TRAIN, u.index, 0)] for u in plan.units[1:]]))
        maker.wall, maker.commit = time.perf_counter() - began, runner.commit_s
    return maker


class _Runner(UnitRunner):
    """Times its commits."""

    commit_s = 0.0

    def _commit(self, made: object) -> bool:
        began = time.perf_counter()
        try:
            return super()._commit(made)  # type: ignore[arg-type]
        finally:
            self.commit_s += time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    arguments(parser)
    print(measure(parser.parse_args()))
