"""The quickstart's language a month later: the facts of every second disease, claim and error are other ones.

Whatever depends on one of those was drawn anew (`../quickstart/language.py` draws its tables by hashing names); the
words, the grammar and all other facts are as they were (but for the odds of the withheld word, which are set by the
mean over all subjects). `truth` is the evaluator's, as there.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

QUICKSTART = Path(__file__).resolve().parent.parent / "quickstart"


def load(name: str) -> ModuleType:
    """A copy of the quickstart's language that is nobody else's."""
    spec = importlib.util.spec_from_file_location(name, QUICKSTART / "language.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def subjects(domain: str) -> tuple[list[str], list[str]]:
    """The diseases (claims, errors) whose facts stay, and those whose facts change."""
    every = language.names(domain, language.FACTS[domain]["attributes"][0])
    return every[0::2], every[1::2]


language: Any = load("revised_language")
_CHANGED = {
    (domain, language.FACTS[domain]["attributes"][0], subject)
    for domain in language.DOMAINS
    for subject in subjects(domain)[1]
}
_as_it_was = language._normal


def _normal(key: str) -> float:
    domain, _, _, given, value = key.split("/")
    return _as_it_was(f"{key}/revised" if (domain, given, value) in _CHANGED else key)


language._normal = _normal
truth = language.truth
