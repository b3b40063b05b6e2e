"""What each of `evaluate.baselines` adds to a run, and what quantised siblings do: training, scoring, storage, memory.
Estimates.

FLOPs are 6 for each parameter and trained token, and 2 for each parameter that a scored one meets (C = 6 N D of arXiv
2001.08361, section 2.1), of target tokens alone: what stands before them in a text comes on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import (
    CONTROLS,
    GENERALIST,
    GIVEN_ANSWERS,
    INITIAL,
    QUANTISED,
    SINGLE_EXPERT,
    TEACHER_4BIT,
    controls_of,
    quantised_train,
)
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.parts import student_parameters, student_width
from orchestrator.preflight.planning.record import BaselinePrice, RunPlan
from workers.model_files import expert_count, read_model_config
from workers.model_sizes import ModelSize, model_size


def plan_prices(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    """Fill in the price of each baseline, and how often given answers are read."""
    prices = _Prices(plan, config, found.teacher_folders[config.first_teacher()], vocabulary)
    named = {other for others in config.evaluate.beside.values() for other in others}
    wanted = [b for b in config.evaluate.baselines if config.specialists or b not in (INITIAL, *CONTROLS, GENERALIST)]
    plan.baselines = {name: prices.of(name) for name in [*wanted, *(n for n in config.specialists if n in named)]}
    if any(s.quantised is not None for s in config.specialists.values()):
        plan.baselines[QUANTISED] = prices.of_siblings()
    if GIVEN_ANSWERS in plan.baselines:
        _note_given(plan, config)


def single_expert_parameters(folder: Path) -> int:
    """Parameters of a teacher of one expert a layer, or of what is held to choose that: its other weights and a whole
    layer of experts."""
    size, model = model_size(folder) or ModelSize(0), read_model_config(folder)
    layers = int(model.get("num_hidden_layers") or 1)
    return size.dense + size.experts // max(min(layers, expert_count(model)), 1)


class _Prices:
    """Prices of the baselines of one run."""

    def __init__(self, plan: RunPlan, config: RunConfig, teacher: Path, vocabulary: int) -> None:
        self._plan, self._config, self._teacher = plan, config, teacher
        self._width = 2 if config.evaluate.gpus else 4
        self._parameters = {n: student_parameters(s.model, vocabulary) for n, s in config.specialists.items()}

    def of(self, name: str) -> BaselinePrice:
        """That of a baseline, or of a specialist that stands beside another one."""
        config, all_domains = self._config, list(self._plan.prompts)
        if name == SINGLE_EXPERT:
            return self._scored(single_expert_parameters(self._teacher), all_domains)
        if name == TEACHER_4BIT:
            own = [d for d in all_domains if config.teacher_of(d) == config.first_teacher()]
            size = model_size(self._teacher) or ModelSize(0)
            return self._scored(size.parameters, own, size.active(read_model_config(self._teacher)))
        if name == GENERALIST:
            first = next(iter(config.specialists))
            return self._trained(first, config.specialists[first].train.tokens, all_domains)
        if name in config.specialists:
            return self._trained(name, config.specialists[name].train.tokens, all_domains)
        each = [
            self._scored(self._parameters[n], [config.own_domain(n)])
            if name == INITIAL
            else self._trained(n, config.control_tokens_of(n), [config.own_domain(n)])
            for n in config.specialists
            if name == INITIAL or name in controls_of(config, n)
        ]
        return _together(each)

    def of_siblings(self) -> BaselinePrice:
        """That of all quantised siblings, and of scoring the specialists with their weights rounded."""
        each = []
        for name, specialist in self._config.specialists.items():
            if specialist.quantised is not None:
                tokens = quantised_train(specialist.train, specialist.quantised).tokens
                own = self._config.own_domain(name)
                each += [self._trained(name, tokens, [own]), self._scored(self._parameters[name], [own])]
        return _together(each)

    def _trained(self, specialist: str, tokens: int, domains: Iterable[str]) -> BaselinePrice:
        """A student of a specialist's model, trained on so many tokens and scored on domains."""
        parameters = self._parameters[specialist]
        scored = self._scored(parameters, domains)
        return BaselinePrice(
            trained_tokens=tokens,
            scored_tokens=scored.scored_tokens,
            flops=scored.flops + 6.0 * parameters * tokens,
            stored_bytes=parameters * student_width(self._config.specialists[specialist].train),
            held_bytes=scored.held_bytes,
        )

    def _scored(self, parameters: int, domains: Iterable[str], active: int | None = None) -> BaselinePrice:
        """A model that is only scored. Of a domain's held-out tokens the plan knows its part of the prompts."""
        prompts = {d: row["heldout"] for d, row in self._plan.prompts.items()}
        share = sum(prompts.get(d, 0) for d in domains) / max(sum(prompts.values()), 1)
        tokens = round(share * self._plan.heldout_tokens)
        return BaselinePrice(
            trained_tokens=0,
            scored_tokens=tokens,
            flops=2.0 * (parameters if active is None else active) * tokens,
            stored_bytes=0,
            held_bytes=parameters * self._width,
        )


def _together(each: list[BaselinePrice]) -> BaselinePrice:
    return BaselinePrice(
        trained_tokens=sum(p.trained_tokens for p in each),
        scored_tokens=sum(p.scored_tokens for p in each),
        flops=sum(p.flops for p in each),
        stored_bytes=sum(p.stored_bytes for p in each),
        held_bytes=max((p.held_bytes for p in each), default=0),
    )


def _note_given(plan: RunPlan, config: RunConfig) -> None:
    """How often the controls of given answers read them."""
    for name in config.specialists:
        for domain, share in config.mix_of(name).items():
            there, wanted = plan.given_tokens.get(domain, 0), share * config.control_tokens_of(name)
            if there and wanted > there:
                plan.notes.append(
                    f"{name}.{GIVEN_ANSWERS} reads the given answers of {domain} about {wanted / there:.3g} times: "
                    f"they have about {there:,} target tokens"
                )
