"""The language a month later is what the example of two generations says it is."""

from __future__ import annotations

import importlib.util
import random
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "generations"


def load(name: str) -> ModuleType:
    """A module of the example by its path, as the evaluator loads it."""
    spec = importlib.util.spec_from_file_location(f"generations_{name}", EXAMPLE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


revised = load("revised")
now, before = revised.language, revised.load("language_before")
each_domain = pytest.mark.parametrize("domain", now.DOMAINS)


@each_domain
def test_every_second_subject_has_other_facts_and_the_rest_has_those_of_before(domain: str) -> None:
    (first, _), slots = now.FACTS[domain]["attributes"], now.FACTS[domain]["slots"]
    stays, changes = revised.subjects(domain)
    every = now.names(domain, first)
    assert sorted([*stays, *changes]) == sorted(every) and len(stays) == len(changes)
    on_subject = [slot for slot, facts in slots.items() if first in facts.get("on", ())]
    assert len(on_subject) >= 5
    apart = dict.fromkeys(every, 0.0)
    for slot in on_subject:
        given = [range(len(now.names(domain, name))) for name in slots[slot]["on"]]
        for values in product(*given):
            subject = every[values[slots[slot]["on"].index(first)]]
            distance = np.abs(now.chances(domain, slot, values) - before.chances(domain, slot, values)).sum() / 2
            apart[subject] = max(apart[subject], float(distance))
    rule = now.FACTS[domain]["withheld"]["slot"]  # its word's odds are set by the mean over all subjects
    assert all(apart[subject] > 0.1 for subject in changes)
    unmoved = [slot for slot in on_subject if slot != rule]
    for slot in unmoved:
        tables = now.tables(domain, slot)[first], before.tables(domain, slot)[first]
        for subject in stays:
            np.testing.assert_array_equal(*(table[every.index(subject)] for table in tables))


@each_domain
def test_its_truth_is_that_of_its_own_texts(domain: str) -> None:
    rng = random.Random(0)
    for _ in range(20):
        text = now.sample(domain, rng)
        rows = revised.truth(domain, text, 0)
        np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-12)
        assert (rows[np.arange(len(text)), text] > 0).all()
