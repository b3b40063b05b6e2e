"""The layout of the repository: who may import whom, which modules may import what, how large and how named."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers", "cluster")
MODULES = sorted(p.relative_to(CHECKOUT) for package in PACKAGES for p in (CHECKOUT / package).rglob("*.py"))

BELOW: dict[str, set[str]] = {
    "orchestrator": {"orchestrator.cli"},
    "orchestrator.cli": {"orchestrator.driver", "orchestrator.launch", "orchestrator.status"},
    "orchestrator.driver": {"orchestrator.stages", "orchestrator.render", "orchestrator.trackers"},
    "orchestrator.status": {"orchestrator.render", "orchestrator.monitors"},
    "orchestrator.launch": {"orchestrator.preflight"},
    "orchestrator.stages": {"orchestrator.reporting"},
    "orchestrator.render": {"orchestrator.reporting", "orchestrator.stores", "orchestrator.preflight"},
    "orchestrator.reporting": {"orchestrator.prompts", "orchestrator.runs"},
    "orchestrator.stores": {"orchestrator.runs", "workers.teacher"},
    "orchestrator.preflight": {"orchestrator.prompts", "orchestrator.runs"},
    # One way from events to numbers, and from a run's log to each program of others.
    "orchestrator.trackers": {"orchestrator.monitors", "orchestrator.runs"},
    "orchestrator.monitors": {"workers.channels", "workers"},
    "orchestrator.prompts": {"orchestrator.config"},
    "orchestrator.runs": {"orchestrator.config"},
    # Settings and jobs of all that works; their rooms import the heavy libraries inside functions.
    "orchestrator.config": {"workers.teacher", "workers.student", "workers.evaluation", "workers.export"},
    "workers.evaluation": {"workers.targets", "workers.channels", "workers.quantise"},
    "workers.export": {"workers.evaluation"},
    # The target store is all that teacher and student share.
    "workers.teacher": {"workers.targets", "workers.channels"},
    "workers.student": {"workers.targets", "workers.channels", "workers.quantise"},
    # One rounding of weights, in training, evaluation and export.
    "workers.quantise": {"cluster"},
    "workers.targets": {"workers"},
    "workers.channels": {"cluster"},
    "workers": {"cluster"},
    "cluster": set(),
}
"""Rooms that a room stands right upon; it may import these, and all that they stand upon. A room is a package of the
three; `workers` are the modules right in it, and a package below a room belongs to that room."""

IMPORTERS = {
    "ray": {
        "cluster/inventory.py",
        "cluster/jobs/client.py",
        "cluster/jobs/job_log.py",
        "cluster/jobs/listing.py",
        "cluster/jobs/submit.py",
        "cluster/placement.py",
        "cluster/ray_internals.py",
        "cluster/session.py",
        "workers/channels/board.py",
        "workers/student/training/process_group.py",
        "workers/teacher/groups/rank.py",
        "workers/teacher/groups/worker_group.py",
        "workers/teacher/units/replica.py",
        "orchestrator/driver/calls.py",
        "orchestrator/driver/inventory.py",
        "orchestrator/driver/pipeline.py",
        "orchestrator/driver/session.py",
        "orchestrator/stages/evaluation.py",
        "orchestrator/stages/export_tasks.py",
        "orchestrator/stages/preparing/freezing_pool.py",
        "orchestrator/stages/preparing/preparation.py",
        "orchestrator/stages/preparing/preparer.py",
        "orchestrator/stages/ray_data.py",
        "orchestrator/stages/training/supervisor.py",
        "orchestrator/stages/teacher_pool.py",
        "orchestrator/stages/training/train_internals.py",
        "orchestrator/trackers/prometheus.py",
    },
    "deepspeed": {"workers/student/training/engine.py", "workers/student/checkpoints/slices.py"},
    "fsspec": {"cluster/storage/s3.py"},
    "s3fs": set(),
    "datasets": {"orchestrator/prompts/reading/hub.py"},
    "lm_eval": {
        "workers/evaluation/harness/asking.py",
        "workers/evaluation/harness/loaded_model.py",
        "workers/evaluation/harness/loading.py",
    },
    "accelerate": set(),
    "gguf": {
        "workers/export/gguf_file/reading.py",
        "workers/export/gguf_file/settings.py",
        "workers/export/gguf_file/tensors.py",
        "workers/export/gguf_file/tokenizer.py",
        "workers/export/gguf_file/writing.py",
    },
    "peft": {"workers/student/models/lora.py"},
    "tensorboard": {"orchestrator/trackers/libraries/tensorboard_files.py"},
    "mlflow": {"orchestrator/trackers/libraries/mlflow_runs.py"},
    "wandb": {"orchestrator/trackers/libraries/wandb_runs.py"},
    "trackio": {"orchestrator/trackers/libraries/trackio_runs.py"},
    "pickle": set(),
    "boto3": set(),
}


def imports(module: Path, root: Path = CHECKOUT) -> Iterator[str]:
    """Dotted names of everything that a module imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse((root / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(root: Path = CHECKOUT) -> dict[str, set[str]]:
    """Our modules by dotted name, each with those of ours that it imports."""
    paths = {
        ".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p.relative_to(root)
        for package in PACKAGES
        for p in (root / package).rglob("*.py")
    }

    def ours(name: str) -> str | None:
        """The module that a dotted name lies in."""
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return name or None

    return {m: {t for n in imports(path, root) if (t := ours(n)) not in (None, m)} for m, path in paths.items()}


def reached(modules: dict[str, set[str]], start: str) -> dict[str, list[str]]:
    """Every module that one leads to by imports, with the way to it."""
    ways, queue = {start: [start]}, [start]
    while queue:
        module = queue.pop(0)
        for target in sorted(modules[module] - ways.keys()):
            ways[target] = [*ways[module], target]
            queue.append(target)
    return ways


def room(module: str) -> str:
    """The room that a module is in."""
    parts = module.split(".")
    whole = ".".join(parts[:2])
    return whole if whole in BELOW else parts[0]


@lru_cache
def may_reach(name: str) -> frozenset[str]:
    """A room, and all that it stands upon."""
    found, queue = {name}, [name]
    while queue:
        new = BELOW[queue.pop()] - found
        found |= new
        queue += new
    return frozenset(found)


def crossings(root: Path = CHECKOUT) -> list[str]:
    """Ways by which a module reaches a room that its own does not stand upon; through whichever files they lead."""
    modules = graph(root)
    return [
        " -> ".join(way)
        for module in modules
        for target, way in reached(modules, module).items()
        if room(target) not in may_reach(room(module))
    ]


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


def test_imports_lead_down_and_never_back() -> None:
    """orchestrator -> workers -> cluster, and the rooms of each: every way that imports lead is looked at."""
    assert crossings() == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        # The hole of the first guard: from the teacher through a neutral file to the student.
        ("workers/model_sizes.py", "from workers.student.config import ModelConfig"),
        ("workers/units.py", "from orchestrator.config.schema import RunConfig"),
        ("orchestrator/runs/folder.py", "from orchestrator.stages.capture import missing_units"),
        ("orchestrator/monitors/jsonl.py", "import orchestrator.driver.session"),
        ("cluster/lease.py", "def late():\n    from workers.layout import EVENTS"),
    ],
)
def test_a_planted_import_is_found(file: str, line: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert crossings(tmp_path) == []
    with (tmp_path / file).open("a") as planted:
        planted.write(f"\n\n{line}\n")
    assert crossings(tmp_path)


def test_what_the_teacher_imports_never_leads_to_the_student() -> None:
    modules = graph()
    for module in modules:
        if room(module) in ("workers.teacher", "workers.targets"):
            assert not {room(m) for m in reached(modules, module)} & {"workers.student", "workers.evaluation"}
        if room(module) == "workers.student":
            assert "workers.teacher" not in {room(m) for m in reached(modules, module)}


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = graph()
    circles = [m for m, targets in modules.items() if any(m in reached(modules, t) for t in targets)]
    assert circles == []


def test_no_folder_has_more_files_than_a_person_keeps_in_mind() -> None:
    folders = [p for root in (*PACKAGES, "tests") for p in (CHECKOUT / root).rglob("*") if p.is_dir()]
    crowded = {str(f): n for f in folders if (n := len([p for p in f.glob("*.py") if p.stem != "__init__"])) > 12}
    assert crowded == {}


def test_nobody_imports_the_tests_or_the_examples() -> None:
    assert not [m for m in MODULES for name in imports(m) if name.split(".")[0] in ("tests", "examples", "conftest")]


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_named_modules_import(library: str) -> None:
    """Who is new here is asked: must this module know of it? Then the list grows by a line, in review."""
    assert importers(library) == IMPORTERS[library]


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
    others = [m for m in MODULES if m not in (Path("cluster/storage/local.py"), Path("cluster/storage/s3.py"))]
    assert not [f"{m}: {name}" for m in others for name in imports(m) if name.startswith(("pyarrow.fs", "smart_open"))]


def test_no_broad_except() -> None:
    """Except where the command line tells usage errors from faults, and raises what is a fault; where an error crosses
    to another process in one form; and around a user's own function, which may raise anything and must cost one answer,
    not the run."""
    broad = []
    for module in set(MODULES) - {Path("workers/teacher/units/answer_filter.py")}:
        for node in ast.walk(ast.parse((CHECKOUT / module).read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"everything"}
                raised = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
                raised |= isinstance(node.body[-1], ast.Raise)
                if caught & {"Exception", "BaseException", "everything"} and not raised:
                    broad.append(f"{module}:{node.lineno}")
    assert not broad


FOLDERS = ("students/", "targets/", "prompts/", "exports/", "scores/", "tasks/", "events/", "trackers/")
FILES = (
    "report.json",
    "report.md",
    "report.html",
    "texts.json",
    "store.json",
    "wall.json",
    "done.json",
    "summary.json",
    "vocab_order.parquet",
)
PARTS = (
    ".r{",
    "/log/",
    "/log",
    "/parts/",
    "/damaged",
    "/repairs",
    "/final",
    "/initial",
    "/at_control",
    "/groups",
    "/store.json",
)


def test_storage_keys_are_spelt_in_one_module() -> None:
    """Who looks for a file of a run finds its key in workers/layout.py; sentences may name one."""
    spelt = []
    for module in set(MODULES) - {Path("workers/layout.py")}:
        for node in ast.walk(ast.parse((CHECKOUT / module).read_text())):
            if isinstance(node, ast.JoinedStr):
                texts = [v.value for v in node.values[1:] if isinstance(v, ast.Constant)]
                spelt += [f"{module}:{node.lineno} {t}" for t in texts if str(t).startswith(PARTS)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                key = node.value in FILES or (node.value.startswith(FOLDERS) and len(node.value.split()) == 1)
                spelt += [f"{module}:{node.lineno} {node.value}"] if key else []
    assert spelt == []


def test_private_names_of_ray_stand_in_two_modules() -> None:
    """One that the cluster uses and one that loads Ray Train; each has a test for each name."""
    private = {
        m.as_posix() for m in MODULES for name in imports(m) if name.split(".")[0] == "ray" and "_internal" in name
    }
    private |= {m.as_posix() for m in MODULES if "ray._private." in (CHECKOUT / m).read_text()}
    assert private == {"cluster/ray_internals.py", "orchestrator/stages/training/train_internals.py"}
