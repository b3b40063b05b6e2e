"""What targets cost and how good they are: bytes, noise, gradients, speed. Takes minutes.

python tests/benchmarks/targets.py [--model FOLDER --prompts FILE...] [--tokens 20000] [--vocabulary 151936]

Texts of the prompt files are scored by the model; every scheme draws its targets from the same logits, at the fewest
draws whose squared error is at most that of 50 multinomial draws. Without arguments it is the quickstart's teacher,
whose 615 ids are split into 49,152 for the second half, so its speeds are those of many short texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from targets_bench.captured import capture, spec_of
from targets_bench.distributions import Distributions, Scored, SplitIds, student_of
from targets_bench.noise import Noise
from targets_bench.quality import BATCH, Captured, Quality, measure
from targets_bench.sizes import bytes_per_token, header_of
from targets_bench.speeds import capture_speeds, decode_speeds, encode_speeds
from targets_bench.tables import show
from targets_bench.texts import read_texts

import workers
from workers.targets.config import Scheme, TargetsConfig
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.vocab_order import VocabOrder
from workers.teacher.config import TeacherConfig
from workers.teacher.engines.transformers_engine import TransformersEngine

CHECKOUT = Path(__file__).resolve().parents[2]
QUICKSTART = CHECKOUT / "examples" / "quickstart"
SAMPLED: tuple[Scheme, ...] = ("systematic", "threshold", "multinomial")
PUBLISHED = 50
"""Draws of multinomial sampling, and ids of top-k, in the publications that all is compared with."""
MANY_IDS = 32_000
"""Fewer than these are no vocabulary of today: speeds are measured on the wider one."""
REPETITIONS = 5


class Case:
    """One vocabulary: its distributions, what each scheme captures, the units that were captured."""

    def __init__(self, engine: TransformersEngine, calibration: Distributions, real: Distributions, unit: int) -> None:
        self.real, self.noise, V = real, Noise(real), real.vocabulary
        published = self.noise.of("multinomial", PUBLISHED)
        self.draws = {s: self.noise.fewest_draws(s, published) for s in SAMPLED}
        self.specs = {s: spec_of(s, n, V) for s, n in self.draws.items()}
        for k in (max(1, round(self.noise.systematic_entries(self.draws["systematic"]))), PUBLISHED):
            self.specs[f"top-{k}"] = spec_of("topk", 1, V, top_k=k)
        self.headers = {name: header_of(spec) for name, spec in self.specs.items()}
        vocab_order = spec_of("systematic", 1, V, marginal=True)
        calibrated = capture(calibration, [vocab_order], engine.tokenizer, unit)[0]
        self.marginal_V = np.sum([u.marginal for u in calibrated], 0)
        self.vocab_order = VocabOrder.by_frequency(self.marginal_V)
        captured = capture(real, list(self.specs.values()), engine.tokenizer, unit)
        self.units: dict[str, list[UnitTargets]] = dict(zip(self.specs, captured, strict=True))

    @property
    def pictures(self) -> dict[str, Captured]:
        """Every scheme's weights, and those of top-k without its tail."""
        pictures = {}
        for name, units in self.units.items():
            pictures[name] = Captured(units, self.headers[name])
            if self.specs[name].scheme == "topk":
                pictures[f"{name} naive"] = Captured(units, self.headers[name], naive=True)
        return pictures


def main() -> None:
    """Print tables of sizes, quality and speeds, and one JSON object."""
    args = arguments()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    pa.set_cpu_count(1)
    engine = TransformersEngine(TeacherConfig(model=str(args.model), dtype="float32"))
    calibration, texts = read_texts(engine.tokenizer, args.prompts, args.tokens)
    V = len(engine.tokenizer)
    student = student_of(str(args.model), texts)
    scored = [Scored(engine.model, student, V, t) for t in (calibration, texts)]
    cases = [Case(engine, *scored, args.texts_per_unit)]
    wider = args.vocabulary or (151_936 if V >= MANY_IDS else 49_152)
    if wider > V:
        split = (SplitIds(s, wider, max(4096, args.tokens // 4)) for s in scored)
        cases.append(Case(engine, *split, args.texts_per_unit))
    figures, *others = (report(case, args.gradients) for case in cases)
    figures |= {"model": args.model.name, "wider": others}
    figures |= speeds(cases[0] if V >= MANY_IDS else cases[-1])
    print(json.dumps(figures))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=QUICKSTART / "teacher")
    prompts = [QUICKSTART / "prompts" / f"{domain}.jsonl" for domain in ("medical", "legal", "code")]
    parser.add_argument(
        "--prompts", type=Path, nargs="+", default=prompts, help="JSON lines: prompt, answer | messages"
    )
    parser.add_argument("--tokens", type=int, default=20_000, help="target tokens to score")
    parser.add_argument(
        "--gradients", type=int, default=16, help=f"batches of {BATCH} tokens for the gradients' angles"
    )
    parser.add_argument("--vocabulary", type=int, help="of the second case, whose ids are those of the first one split")
    parser.add_argument("--texts-per-unit", type=int, default=32)
    return parser.parse_args()


def report(case: Case, gradients: int) -> dict[str, object]:
    """Tables of one vocabulary; returns its figures, those of the project's default scheme first."""
    V, T = case.real.vocabulary, len(case.real.tokens_T)
    sizes = {name: bytes_per_token(units, case.headers[name], case.marginal_V) for name, units in case.units.items()}
    found, kl = measure(case.real, case.pictures, gradients)
    show(
        f"{V:,} ids, {T:,} target tokens, mean entropy {case.noise.entropy:.3f} nats; student at a KL of {kl:.3f}",
        [
            "scheme",
            "draws",
            "bytes/token",
            "num_kept",
            "E|w-t|^2",
            "theory",
            "angle",
            "norm",
            "angle, all",
            "norm, all",
        ],
        [_row(name, case, sizes, q) for name, q in found.items()],
    )
    print(
        f"  angle (degrees) and norm ratio to the full gradient of the head: mean over {gradients} batches of {BATCH}"
    )
    print("  tokens, and of the gradient over all of them; top-k's |w-t|^2 is bias, which does not average out")
    columns = list(dict.fromkeys(column for size in sizes.values() for column in size))
    show(
        "bytes a target token, in units as a run writes them",
        ["", *sizes],
        [[column, *(size.get(column) for size in sizes.values())] for column in columns],
    )
    default = TargetsConfig().scheme
    names = ("num_kept", "squared_error", "angle", "norm", "angle_all", "norm_all")
    schemes = {name: dict(zip(names, (round(x, 5) for x in q.row), strict=True)) for name, q in found.items()}
    for name, size in sizes.items():
        schemes[name]["bytes_per_token"] = round(size["targets"], 2)
    return {
        "bytes_per_token": schemes[default]["bytes_per_token"],
        "draws": case.draws[default],
        "squared_error": schemes[default]["squared_error"],
        "squared_error_multinomial50": schemes["multinomial"]["squared_error"],
        "scheme": default,
        "vocabulary": V,
        "tokens": T,
        "entropy": round(case.noise.entropy, 3),
        "schemes": schemes,
    }


def _row(name: str, case: Case, sizes: dict[str, dict[str, float]], quality: Quality) -> list[object]:
    entries, error, *angles = quality.row
    draws, size = case.draws.get(name), sizes.get(name, {}).get("targets")
    theory = case.noise.of(name, draws) if draws else None
    return [name, draws, size, entries, error, theory, *angles]


def speeds(case: Case) -> dict[str, object]:
    """Tables of tokens per CPU-second on one thread."""
    torch.set_num_threads(1)
    default = TargetsConfig().scheme
    units, header = case.units[default], case.headers[default]
    captured = capture_speeds(case.real, case.specs, REPETITIONS)
    encoded, files, list_bytes = encode_speeds(units, header, case.vocab_order, REPETITIONS)
    decoded = decode_speeds(files, header, case.vocab_order, len(case.real.tokens_T), REPETITIONS)
    title = f"tokens per CPU-second, one thread, {case.real.vocabulary:,} ids"
    show(f"{title}: logits to targets", ["", "tokens/CPU-s"], list(captured.items()))
    show(f"{title}: {default} targets to Parquet and back", ["", "tokens/CPU-s"], list((encoded | decoded).items()))
    print(f"  the list schema takes {list_bytes:.1f} bytes a token for ids, probabilities and tokens alone")
    return {
        "speed_vocabulary": case.real.vocabulary,
        "logits_to_targets_tokens_per_cpu_s": round(captured[default]),
        "encode_tokens_per_cpu_s": round(encoded["encode"]),
        "list_schema_encode_tokens_per_cpu_s": round(encoded["list schema"]),
        "list_schema_bytes_per_token": round(list_bytes, 1),
        "decode_tokens_per_cpu_s": round(decoded["bytes to tensors"]),
        "decode_alone_tokens_per_cpu_s": round(decoded["of it, decode"]),
    }


if __name__ == "__main__":
    main()
