"""`file.py:function` in a configuration: whether there is such a thing, and whether it loads."""

from __future__ import annotations

import ast
from pathlib import Path


def check_function(where: str, spec: str) -> None:
    """Raise ValueError, naming the setting `where`, if a file does not exist or does not define the function. The file
    is not run."""
    path, colon, function = spec.rpartition(":")
    if not colon or not Path(path).is_file() or not defines(Path(path), function):
        raise ValueError(f"{where}: {spec!r} is not file.py:function with a file that exists and defines the function")


def load_functions(answer_filter: str | None, truth: str | None) -> None:
    """Run the files of `answers.filter` and `evaluate.truth`, as teacher and evaluator will. Raises ValueError where
    one fails. A file that is not on this machine is passed over: it may be where it is needed."""
    from workers.evaluation.heldout.truth import load_truth
    from workers.teacher.units.answer_filter import AnswerFilter, FilterCode

    if answer_filter is not None and Path(answer_filter.rpartition(":")[0]).is_file():
        AnswerFilter(FilterCode.read(answer_filter))
    if truth is not None and Path(truth.rpartition(":")[0]).is_file():
        load_truth(truth)


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
