"""Every public function and class says what it does, and every setting describes itself."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cluster.settings import Settings
from orchestrator.config.schema import RunConfig

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    p.relative_to(CHECKOUT).as_posix()
    for package in ("orchestrator", "workers", "cluster")
    for p in (CHECKOUT / package).rglob("*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module: str) -> None:
    tree = ast.parse((CHECKOUT / module).read_text())
    public = [
        n
        for n in tree.body
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not n.name.startswith("_")
    ]
    assert ast.get_docstring(tree), "the module says nothing of itself"
    assert not [f"{module}:{n.lineno} {n.name}" for n in public if not ast.get_docstring(n)]


def records(model: type[BaseModel], where: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A configuration class and all that lie below it, with the place of each."""
    yield where, model
    for name, field in model.model_fields.items():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from records(part, f"{where}.{name}".lstrip("."))


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in typing.get_args(annotation):
        yield from parts(argument)


RECORDS = dict(records(RunConfig))


def test_the_walk_reaches_the_leaves() -> None:
    assert {"specialists.train", "teachers.sampling", "prompts.sampling", "evaluate", "cluster"} <= set(RECORDS)


@pytest.mark.parametrize("where", RECORDS)
def test_every_setting_has_a_description(where: str) -> None:
    model = RECORDS[where]
    assert model.__doc__
    assert not [f"{where}.{n}" for n, f in model.model_fields.items() if not (f.description or "").strip()]


@pytest.mark.parametrize("where", RECORDS)
def test_every_record_is_strict_and_frozen(where: str) -> None:
    model = RECORDS[where]
    assert issubclass(model, Settings)
    assert model.model_config.get("extra") == "forbid" and model.model_config.get("frozen")
