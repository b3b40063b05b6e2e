"""Scores of a student against its teacher from sums over texts and bins, with intervals over prompts. Pure numpy.

Legend: P prompts, G bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.evaluation.heldout.sums import ENTROPY_BIN, SUMMED, TEMPERATURES, TEMPERED, By, first_position
from workers.evaluation.metrics.calibration import (
    CALIBRATED,
    best_temperature,
    calibration_error,
    error_by_chance,
    in_bins,
)
from workers.evaluation.metrics.resampling import Estimate, bootstrap_interval, ratio, resampled_sums

_IN_CURVES = ("kl", "reverse_kl", "tv", "agree", "nll", "confidence", "teacher_at_top", "hit")


@dataclass
class DomainScores:
    """What one model did on the held-out text of one domain: the sums of all units."""

    prompts: list[str]
    """[P] their uids, in the order in which they are first met."""
    by_prompt: dict[str, np.ndarray]
    """[P] `tokens`, `truth_tokens`, `truth_excess` and what is SUMMED, each summed over a prompt's texts."""
    confidence: np.ndarray
    """[G, C] sums of what is CALIBRATED, by rising mean confidence."""
    curves: dict[By, dict[int, dict[str, float]]]
    """Sums by bin of `entropy` and of `position`."""

    @staticmethod
    def of(table: pa.Table) -> DomainScores:
        """From the sums of units of one domain, in plan order."""
        names = [*SUMMED, *TEMPERED, "tokens", "truth_tokens", "truth_excess"]
        texts = _where(table, "text")
        uids = texts["prompt_uid"].combine_chunks().dictionary_encode()  # in order of appearance, as a group_by is not
        prompt = uids.indices.to_numpy()
        bins = _where(table, "confidence")
        sums_GC = np.stack([bins[n].to_numpy().astype(np.float64) for n in CALIBRATED], 1)
        means_GC = sums_GC[:, 1:] / sums_GC[:, :1]
        return DomainScores(
            uids.dictionary.to_pylist(),
            {n: np.bincount(prompt, texts[n].to_numpy().astype(np.float64)) for n in names},
            sums_GC[np.lexsort([means_GC[:, 1], means_GC[:, 0]])],
            {by: _curve(_where(table, by)) for by in ("entropy", "position")},
        )


def summarise(scores: DomainScores, resamples: int, seed: int) -> dict[str, float]:
    """All scores of one model on one domain; `kl_low` and `kl_high` bound the 95 % bootstrap interval over prompts, as
    those of `acceptance` do."""
    total = {name: float(values.sum()) for name, values in scores.by_prompt.items()}
    mean = {name: total[name] / total["tokens"] for name in SUMMED}
    tokens_P = scores.by_prompt["tokens"]
    low, high = bootstrap_interval(scores.by_prompt["kl"], tokens_P, resamples, seed)
    most, least = bootstrap_interval(scores.by_prompt["tv"], tokens_P, resamples, seed)
    result = {
        "kl": mean["kl"],
        "kl_low": low,
        "kl_high": high,
        "reverse_kl": mean["reverse_kl"],
        "acceptance": 1 - mean["tv"],
        "acceptance_low": 1 - least,
        "acceptance_high": 1 - most,
        "top1_agreement": mean["agree"],
        "top16_overlap": mean["overlap"],
        "top16_mass": mean["overlap_mass"],
        "perplexity": float(np.exp(mean["nll"])),
        "ece_teacher": calibration_error(in_bins(scores.confidence)),
        "overconfidence_gap": mean["confidence"] - mean["teacher_at_top"],
        "tokens": int(total["tokens"]),
        "prompts": len(scores.prompts),
    }
    if known := total["truth_tokens"]:
        result["truth_excess_kl"] = total["truth_excess"] / known
        result["truth_tokens_skipped"] = int(total["tokens"] - known)
    return result


def calibration(scores: DomainScores, resamples: int, seed: int) -> dict[str, Any]:
    """How well a model's probabilities are what they say, on one domain, and what a temperature would repair."""
    total = {name: float(values.sum()) for name, values in scores.by_prompt.items()}
    mean = {name: total[name] / total["tokens"] for name in (*SUMMED, *TEMPERED)}
    bins_BC = in_bins(scores.confidence)
    temperature, kl = best_temperature((*TEMPERATURES, 1.0), [mean[name] for name in (*TEMPERED, "kl")])
    return {
        "ece": calibration_error(bins_BC, "hit"),
        "ece_by_chance": error_by_chance(bins_BC, resamples, seed),
        "brier": mean["brier"],
        "nll": mean["nll"],
        "overconfidence": mean["confidence"] - mean["hit"],
        "overconfidence_to_teacher": mean["confidence"] - mean["teacher_at_top"],
        "entropy_gap": mean["model_entropy"] - mean["entropy"],
        "temperature": temperature,
        "kl_at_temperature": kl,
        "reliability": _reliability(bins_BC),
    }


def _reliability(bins_BC: np.ndarray) -> list[dict[str, float]]:
    """Bins of rising confidence, each with its tokens and means."""
    means_BC = bins_BC / bins_BC[:, :1]
    return [
        {"tokens": tokens, **dict(zip(CALIBRATED[1:], row[1:], strict=True))}
        for tokens, row in zip(np.rint(bins_BC[:, 0]).astype(int).tolist(), means_BC.tolist(), strict=True)
    ]


def worst(scores: DomainScores, most: int) -> list[dict[str, Any]]:
    """The prompts whose texts have the largest mean KL, worst first."""
    tokens_P = scores.by_prompt["tokens"]
    mean_P = scores.by_prompt["kl"] / np.maximum(tokens_P, 1)
    order = np.argsort(-mean_P, kind="stable")[:most].tolist()
    return [{"prompt": scores.prompts[p], "kl": float(mean_P[p]), "tokens": int(tokens_P[p])} for p in order]


def curve(scores: DomainScores, by: By) -> list[dict[str, Any]]:
    """Means by bin of the teacher's entropy or of position in the answer; `at` is where a bin begins."""
    points = []
    for number, sums in sorted(scores.curves[by].items()):
        at = number * ENTROPY_BIN if by == "entropy" else first_position(number)
        means = {n: sums[n] / sums["tokens"] for n in _IN_CURVES}
        points.append(
            {
                "at": at,
                "tokens": int(sums["tokens"]),
                "top1_agreement": means.pop("agree"),
                "acceptance": 1 - means.pop("tv"),
                **means,
            }
        )
    return points


_COMPARED: dict[str, dict[str, float]] = {
    "kl": {"kl": 1},
    "reverse_kl": {"reverse_kl": 1},
    "acceptance": {"tv": -1},
    "top1_agreement": {"agree": 1},
    "nll": {"nll": 1},
    "overconfidence": {"confidence": 1, "hit": -1},
    "overconfidence_to_teacher": {"confidence": 1, "teacher_at_top": -1},
}
"""What models are compared by: which sums, each times what."""


def paired_differences(a: DomainScores, b: DomainScores, resamples: int, seed: int) -> dict[str, Estimate]:
    """What a has beyond b on the same positions, means over tokens with paired 95 % intervals over prompts: `kl` and
    other names of `summarise` and `calibration`. Raises ValueError for scores of other positions."""
    tokens_P = a.by_prompt["tokens"]
    if a.prompts != b.prompts or not np.array_equal(tokens_P, b.by_prompt["tokens"]):
        raise ValueError("paired scores must be of the same positions")
    columns = [
        sum(factor * (a.by_prompt[name] - b.by_prompt[name]) for name, factor in sums.items())
        for sums in _COMPARED.values()
    ]
    table_PK = np.stack([*columns, tokens_P], 1)
    whole_K, draws_RK = table_PK.sum(0), resampled_sums(table_PK, resamples, seed)
    draws_RK = draws_RK[:, :-1] / np.maximum(draws_RK[:, -1:], 1e-9)
    return {n: Estimate.of(whole_K[k] / whole_K[-1], draws_RK[:, k]) for k, n in enumerate(_COMPARED)}


def paired_share(a: DomainScores, b: DomainScores, base: DomainScores, resamples: int, seed: int) -> Estimate:
    """The KL that a has beyond `base` as a share of what b has beyond it, with a paired 95 % interval over prompts; NaN
    where b has nothing beyond it. Raises ValueError for scores of other positions."""
    if not a.prompts == b.prompts == base.prompts:
        raise ValueError("paired scores must be of the same positions")
    table_P2 = np.stack([s.by_prompt["kl"] - base.by_prompt["kl"] for s in (a, b)], 1)
    draws_R2 = resampled_sums(table_P2, resamples, seed)
    whole_2 = table_P2.sum(0)
    return Estimate.of(float(ratio(whole_2[0], whole_2[1])), ratio(draws_R2[:, 0], draws_R2[:, 1]))


def by_domain(tables: Sequence[pa.Table]) -> dict[str, DomainScores]:
    """The scores of a model by domain, from the sums of all its units in plan order."""
    table = pa.concat_tables(tables)
    return {
        domain: DomainScores.of(table.filter(pc.equal(table["domain"], domain)))
        for domain in sorted(pc.unique(table["domain"]).to_pylist())
    }


def _where(table: pa.Table, by: By) -> pa.Table:
    return table.filter(pc.equal(table["by"], by))


def _curve(table: pa.Table) -> dict[int, dict[str, float]]:
    names = [*SUMMED, "tokens"]
    sums = table.group_by("bin").aggregate([(n, "sum") for n in names])
    return {row["bin"]: {n: float(row[f"{n}_sum"]) for n in names} for row in sums.to_pylist()}
