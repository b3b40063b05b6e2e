"""What must hold of settings that go to Ray as they are: its runtime_env, label selectors and amounts of resources.
Imports no Ray: these are its rules, and tests compare them with Ray's own."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig

RUNTIME_ENV_KEYS = frozenset(
    {
        *("py_modules", "py_executable", "java_jars", "working_dir", "conda", "pip", "uv", "container", "excludes"),
        *("env_vars", "config", "worker_process_setup_hook", "image_uri", "nsight", "rocprof_sys"),
    }
)
"""What Ray knows in a runtime_env, but for what begins with _."""

RUNTIME_ENV_CONFIG_KEYS = frozenset({"setup_timeout_seconds", "eager_install", "log_files"})

_OPTIONS = {"pip": "pip_install_options", "uv": "uv_pip_install_options"}

_ALONE = {"container": {"container", "config", "env_vars"}, "image_uri": {"image_uri", "config", "env_vars"}}

_TEXTS = {
    "py_executable": "the command that starts Python on the nodes",
    "worker_process_setup_hook": "the name of a function, module.function",
    "image_uri": "the address of an image",
}

_OWN_VARIABLES = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
        *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_CPU_OMP_THREADS_BIND"),
        *("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_DP_RANK", "VLLM_DP_RANK_LOCAL", "VLLM_DP_SIZE"),
        *("VLLM_DP_MASTER_IP", "VLLM_DP_MASTER_PORT", "RAY_ADDRESS"),
    }
)
"""Variables that Ray or this program sets in each process, whatever is said here."""

_TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"})

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"(?:(?P<prefix>{_NAME}(?:\.{_NAME})*)/)?{_NAME}")
_LABEL_VALUE = re.compile(rf"!?(?:{_NAME}|in\({_NAME}(?:, ?{_NAME})*\))")


def check_passed_on(config: RunConfig) -> None:
    """Raise ValueError for the first of these settings that Ray would refuse, ignore or never meet."""
    _check_runtime_env(config.cluster.runtime_env)
    for name, teacher in config.teachers.items():
        key = config.teacher_key(name)
        _check_labels(f"{key}.label_selector", teacher.label_selector)
        _check_amount(f"{key}.gpus_per_rank", teacher.gpus_per_rank, whole=True)
        _check_amount(f"{key}.cpus_per_rank", teacher.cpus_per_rank)
        if teacher.accelerator_type is not None and not teacher.accelerator_type.strip():
            raise ValueError(f"{key}.accelerator_type: names none; leave it out to take any")
    for name, specialist in config.specialists.items():
        key = f"specialists.{name}.train"
        _check_labels(f"{key}.label_selector", specialist.train.label_selector)
        _check_amount(f"{key}.gpus_per_worker", specialist.train.gpus_per_worker, whole=True)
        _check_amount(f"{key}.cpus_per_worker", specialist.train.cpus_per_worker)
    _check_labels("evaluate.label_selector", config.evaluate.label_selector)
    _check_amount("evaluate.gpus", config.evaluate.gpus, whole=True)
    _check_amount("evaluate.cpus", config.evaluate.cpus)


def _check_amount(where: str, amount: float, *, whole: bool = False) -> None:
    """Ray counts in ten-thousandths, and gives parts of one GPU but not of several."""
    if whole and amount > 1 and amount != int(amount):
        raise ValueError(f"{where}: {amount:g}; Ray gives a part of one GPU, or whole ones: a number up to 1, or whole")
    if 0 < amount < 0.0001:
        raise ValueError(f"{where}: {amount:g}; Ray counts in ten-thousandths: give 0.0001 or more")


def _check_labels(where: str, labels: dict[str, str]) -> None:
    for key, value in labels.items():
        found = _LABEL_KEY.fullmatch(key)
        if found is None or len(found["prefix"] or "") > 253:
            raise ValueError(
                f"{where}: {key!r} is no name of a label; Ray's are of letters, digits, '-', '_' and '.', up to 63, "
                "perhaps behind a domain and '/'"
            )
        if _LABEL_VALUE.fullmatch(value) is None:
            raise ValueError(
                f"{where}.{key}: {value!r} is no selector; Ray's are value, '!value', 'in(a, b)' and '!in(a, b)', "
                "where values are of letters, digits, '-', '_' and '.', up to 63"
            )


def _check_runtime_env(given: dict[str, Any]) -> None:
    where = "cluster.runtime_env"
    for key, value in given.items():
        if key not in RUNTIME_ENV_KEYS:
            near = difflib.get_close_matches(str(key), sorted(RUNTIME_ENV_KEYS), 1, 0.6)
            raise ValueError(
                f"{where}.{key}: Ray has no such key"
                + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(RUNTIME_ENV_KEYS))}")
            )
        if value is None:
            raise ValueError(f"{where}.{key}: is null; give it a value, or leave it out")
    several = [key for key in ("pip", "uv", "conda") if key in given]
    if len(several) > 1:
        raise ValueError(f"{where}: {' and '.join(several)} cannot be given together; choose one")
    for key, beside in _ALONE.items():
        if key in given and (others := sorted(given.keys() - beside)):
            raise ValueError(f"{where}: {', '.join(others)} cannot be given with {key}; put them into the image")
    _check_env_vars(f"{where}.env_vars", given.get("env_vars", {}))
    _check_folder(f"{where}.working_dir", given.get("working_dir"))
    modules = given.get("py_modules", [])
    if not isinstance(modules, list):
        raise ValueError(f"{where}.py_modules: {modules!r}; give a list of folders, files or URIs")
    for module in modules:
        _check_folder(f"{where}.py_modules", module)
    for key in ("pip", "uv", "conda"):
        _check_packages(f"{where}.{key}", key, given.get(key))
    _check_others(where, given)


def _check_others(where: str, given: dict[str, Any]) -> None:
    settings = given.get("config", {})
    if not isinstance(settings, dict) or (unknown := sorted(settings.keys() - RUNTIME_ENV_CONFIG_KEYS)):
        shown = repr(settings) if not isinstance(settings, dict) else ", ".join(map(str, unknown))
        raise ValueError(f"{where}.config: {shown}; Ray has {', '.join(sorted(RUNTIME_ENV_CONFIG_KEYS))} there")
    seconds = settings.get("setup_timeout_seconds", -1)
    if type(seconds) is not int or (seconds < 1 and seconds != -1):
        raise ValueError(f"{where}.config.setup_timeout_seconds: {seconds!r}; give whole seconds, or -1 for no end")
    if not isinstance(settings.get("eager_install", True), bool):
        raise ValueError(f"{where}.config.eager_install: {settings['eager_install']!r}; give true or false")
    excludes = given.get("excludes", [])
    if not isinstance(excludes, list) or not all(isinstance(pattern, str) for pattern in excludes):
        raise ValueError(f"{where}.excludes: {excludes!r}; give a list of patterns, as in .gitignore")
    for key, what in _TEXTS.items():
        if key in given and not (isinstance(given[key], str) and given[key].strip()):
            raise ValueError(f"{where}.{key}: {given[key]!r}; give {what}")


def _check_env_vars(where: str, variables: Any) -> None:
    """Names, never values: these may be secret."""
    if not isinstance(variables, dict):
        raise ValueError(f"{where}: has to map names to texts")
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name:
            raise ValueError(f"{where}: {name!r} cannot name a variable; quote it, if it is text")
        if not isinstance(value, str):
            raise ValueError(f"{where}.{name}: is {type(value).__name__} and has to be text; put it in quotes")
        if name in _TOKENS:
            raise ValueError(
                f"{where}.{name}: is a secret, and the configuration is written into the run folder; "
                "set it in the environment of the nodes, or put it in a file that HF_TOKEN_PATH names"
            )
        if name in _OWN_VARIABLES:
            raise ValueError(f"{where}.{name}: is set in each process by Ray or by this program; take it out")


def _check_folder(where: str, name: Any) -> None:
    """What Ray sends to the nodes is there: a folder, or an archive or wheel."""
    if name is None:
        return
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: {name!r}; give the path of a folder, or a URI")
    path = Path(os.path.expanduser(name))
    if "://" not in name and not (path.is_dir() or (path.is_file() and path.suffix in (".zip", ".whl", ".py"))):
        raise ValueError(f"{where}: no folder {name!r} on this machine; name one, or a URI such as s3://.../code.zip")


def _check_packages(where: str, kind: str, value: Any) -> None:
    """A list of packages, a file of them, or Ray's longer form; conda has environments by name too."""
    if value is None:
        return
    if isinstance(value, list) and kind != "conda":
        if not value or not all(isinstance(package, str) for package in value):
            raise ValueError(f"{where}: {value!r}; give a list of packages, as in a requirements file")
    elif isinstance(value, str):
        is_file = kind != "conda" or Path(value).suffix in (".yml", ".yaml")
        if not value or (is_file and not Path(os.path.expanduser(value)).is_file()):
            raise ValueError(f"{where}: no file {value!r} on this machine; name one, or write the packages as a list")
    elif not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r}; see Ray's runtime_env for what may stand here")
    elif kind != "conda":
        known = {"packages", f"{kind}_check", f"{kind}_version", _OPTIONS[kind]}
        if unknown := sorted(map(str, value.keys() - known)):
            raise ValueError(f"{where}: {', '.join(unknown)}; Ray has {', '.join(sorted(known))} there")
        if not isinstance(value.get("packages"), list):
            raise ValueError(f"{where}: has no list `packages`; give one")
