"""Reading what an installed package says in its source files, without importing it: what it knows is checked in well
under a second, and loads in many."""

from __future__ import annotations

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path

_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


def package_folder(name: str) -> Path | None:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@lru_cache(maxsize=64)
def parsed(path: Path) -> ast.Module:
    """A source file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def classes(path: Path) -> list[ast.ClassDef]:
    """The classes of a source file, those within others left out."""
    return [node for node in parsed(path).body if isinstance(node, ast.ClassDef)]


def assigned(node: ast.ClassDef | ast.Module, name: str) -> ast.expr | None:
    """What a name is set to in the body of a class or module, annotated or not."""
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if name in [t.id for t in targets if isinstance(t, ast.Name)]:
            return getattr(statement, "value", None)
    return None


def annotated_fields(node: ast.ClassDef) -> list[tuple[str, ast.expr, ast.expr | None]]:
    """Fields of a class such as a dataclass, each with its annotation and default."""
    return [
        (s.target.id, s.annotation, s.value)
        for s in node.body
        if isinstance(s, ast.AnnAssign)
        and isinstance(s.target, ast.Name)
        and "ClassVar" not in {n.id for n in ast.walk(s.annotation) if isinstance(n, ast.Name)}
    ]


def plain_types(annotation: ast.expr) -> tuple[type, ...] | None:
    """Types that an annotation allows; None where it is not made of plain ones alone."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        left, right = plain_types(annotation.left), plain_types(annotation.right)
        return None if left is None or right is None else left + right
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return (type(None),)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        return plain_types(annotation.value) if annotation.value.id in ("list", "dict") else None
    if isinstance(annotation, ast.Name) and annotation.id in _TYPES:
        return (_TYPES[annotation.id],)
    return None


def in_words(types: tuple[type, ...]) -> str:
    """Types for a person: `int or null`."""
    return " or ".join(dict.fromkeys("null" if t is type(None) else t.__name__ for t in types))
