"""What the packages import is declared in pyproject.toml, and what is declared is pinned in constraints.txt."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers", "cluster")
ELSEWHERE = {"vllm"}
"""Installed in an environment of its own, from constraints-vllm.txt."""

PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    """The name of a distribution as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(match[0]) for r in requirements if (match := re.match(r"[A-Za-z0-9._-]+", r))}


def imported(package: str) -> set[str]:
    """Top-level names of all that is imported, inside functions too, less the standard library and our own."""
    found: set[str] = set()
    for path in (CHECKOUT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES) - ELSEWHERE


EXTRAS = PROJECT["optional-dependencies"]
DECLARED = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in EXTRAS if extra != "dev"))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_imported_is_declared(package: str) -> None:
    """A package that is there because another one needs it can be gone with that one's next version."""
    providers = packages_distributions()
    found = imported(package)
    assert len(found) > 2
    assert not {name for name in found if not {normal(d) for d in providers.get(name, [name])} & DECLARED}


def test_what_is_declared_is_pinned() -> None:
    pinned = {normal(line.split("==")[0]) for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if line}
    assert not DECLARED - pinned
