"""The house: who may import whom, which modules may import what, how large and how named they are."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers", "cluster")
MODULES = sorted(p.relative_to(CHECKOUT) for package in PACKAGES for p in (CHECKOUT / package).rglob("*.py"))

MAY_IMPORT = {"orchestrator": {"orchestrator", "workers", "cluster"}, "workers": {"workers", "cluster"}}
WORKERS_MAY_IMPORT = {
    # The target store is all that teacher and student share.
    "teacher": {"teacher", "targets"},
    "student": {"student", "targets"},
    "targets": {"targets"},
    "evaluation": {"evaluation", "targets", "student"},
    "export": {"export"},
}
IMPORTERS = {
    "ray": {
        "cluster/inventory.py",
        "cluster/job_log.py",
        "cluster/placement.py",
        "cluster/session.py",
        "cluster/submit.py",
        "workers/progress.py",
        "workers/teacher/gang.py",
        "workers/teacher/rank.py",
        "workers/teacher/replica.py",
        "orchestrator/attempt.py",
        "orchestrator/capture.py",
        "orchestrator/elastic.py",
        "orchestrator/evaluation.py",
        "orchestrator/initial.py",
        "orchestrator/preparation.py",
        "orchestrator/plan.py",
        "orchestrator/supervisor.py",
        "orchestrator/watch.py",
    },
    "deepspeed": {"workers/student/engine.py", "workers/student/resharding.py"},
    "fsspec": {"cluster/s3_storage.py"},
    "s3fs": set(),
    "datasets": {"orchestrator/prompt_sources.py"},
    "accelerate": set(),
    "peft": {"workers/student/lora.py"},
    "pickle": set(),
    "boto3": set(),
}


def imports(module: Path) -> Iterator[str]:
    """Dotted names of everything that a module imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse((CHECKOUT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(library: str) -> set[str]:
    return {m.as_posix() for m in MODULES if any(name.split(".")[0] == library for name in imports(m))}


def test_there_are_three_packages_to_look_at() -> None:
    assert {m.parts[0] for m in MODULES} == set(PACKAGES) and len(MODULES) > 40


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_resolve_inside_the_checkout(package: str) -> None:
    """Bare names can be taken by another distribution; ours must win."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve() == CHECKOUT / package / "__init__.py"


def test_orchestrator_imports_workers_imports_cluster_never_back() -> None:
    back = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imports(module)
        if (to := name.split(".")[0]) in PACKAGES and to not in MAY_IMPORT.get(module.parts[0], {"cluster"})
    ]
    assert not back


def test_teacher_and_student_never_import_each_other() -> None:
    rooms = {m.parts[1] for m in MODULES if m.parts[0] == "workers" and len(m.parts) == 3}
    assert rooms == set(WORKERS_MAY_IMPORT)
    crossed = [
        f"{module} imports {name}"
        for module in MODULES
        if module.parts[0] == "workers" and len(module.parts) == 3
        for name in imports(module)
        if name.startswith("workers.")
        and (to := name.split(".")[1]) in rooms
        and to not in WORKERS_MAY_IMPORT[module.parts[1]]
    ]
    assert not crossed


def test_nobody_imports_the_tests_or_the_examples() -> None:
    assert not [m for m in MODULES for name in imports(m) if name.split(".")[0] in ("tests", "examples", "conftest")]


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_named_modules_import(library: str) -> None:
    """Who is new here is asked: must this module know of it? Then the list grows by a line, in review."""
    assert importers(library) <= IMPORTERS[library]


@pytest.mark.parametrize("library", ["ray", "deepspeed", "fsspec"])
def test_the_import_scanner_finds_what_is_there(library: str) -> None:
    assert importers(library)


def test_no_module_grows_beyond_400_lines() -> None:
    long = {str(m): n for m in MODULES if (n := len((CHECKOUT / m).read_text().splitlines())) > 400}
    assert not long


def test_no_drawers_for_odds_and_ends() -> None:
    names = {part.removesuffix(".py") for m in MODULES for part in m.parts}
    drawers = ("utils", "util", "common", "helpers", "helper", "misc")
    assert not [n for n in names if n in drawers or n.endswith(tuple(f"_{d}" for d in drawers))]


def test_only_storage_opens_remote_filesystems() -> None:
    """`s3://` may be recognised elsewhere, but `pyarrow.fs` and the like would be a second way to the store."""
    others = [m for m in MODULES if m not in (Path("cluster/local_storage.py"), Path("cluster/s3_storage.py"))]
    assert not [f"{m}: {name}" for m in others for name in imports(m) if name.startswith(("pyarrow.fs", "smart_open"))]


def test_no_broad_except() -> None:
    """Except where the command line tells usage errors from faults, and raises what is a fault; and around a user's own
    function, which may raise anything and must cost one answer, not the run."""
    broad = []
    for module in set(MODULES) - {Path("workers/teacher/answer_filter.py")}:
        for node in ast.walk(ast.parse((CHECKOUT / module).read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"everything"}
                raised = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
                if caught & {"Exception", "BaseException", "everything"} and not raised:
                    broad.append(f"{module}:{node.lineno}")
    assert not broad
