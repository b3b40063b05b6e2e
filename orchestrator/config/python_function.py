"""`file.py:function` in a configuration: whether there is such a thing. No file is run."""

from __future__ import annotations

import ast
from pathlib import Path


def check_function(where: str, spec: str) -> None:
    """Raise ValueError, naming the setting `where`, if a file does not exist or does not define the function."""
    path, colon, function = spec.rpartition(":")
    if not colon or not Path(path).is_file() or not defines(Path(path), function):
        raise ValueError(f"{where}: {spec!r} is not file.py:function with a file that exists and defines the function")


def defines(path: Path, function: str) -> bool:
    """Whether a Python file defines (or imports, or assigns) a function of that name; read without running it."""
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError, RecursionError, OSError):  # no Python, no UTF-8, cannot be read
        return False
    names = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    names |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    names |= {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    return function in names
