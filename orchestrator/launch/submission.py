"""Sending a run to a cluster: which folder goes along, what is typed there, under which identity."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.jobs.submit import submit
from cluster.stopping import ENDING_S
from cluster.storage import join
from orchestrator.config.loading import dump, load_config
from orchestrator.config.schema import RunConfig
from orchestrator.launch.shipping import check_shipped
from workers.fingerprint import hash_json

_PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")
"""Settings of this shell that the job needs to find the same storage. Credentials stay here: nodes have their own."""


_STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Variable of a job's environment: seconds from the SIGTERM of `ray job stop` to its SIGKILL. By default 3, in which no
student writes its checkpoint."""


def submit_run(
    config: Path,
    sets: list[str],
    address: str,
    *,
    follow: bool,
    flags: Sequence[str] = (),
    say: Callable[[str], None],
) -> int:
    """Submit `stillhouse run CONFIG`, with flags of that command, and the working directory; returns the exit code.
    Raises ValueError."""
    file = load_config(config, sets)
    folder = Path.cwd()
    try:
        inside = config.absolute().relative_to(folder)
    except ValueError:
        raise ValueError(
            f"{config}: the job gets the working directory {str(folder)!r}, and the configuration is not in it; "
            "type the command in a folder that holds it"
        ) from None
    if "://" not in file.config.storage:
        say(
            f"note: storage {file.config.storage!r} is a folder of the head node there; "
            "a cluster of several nodes needs s3://"
        )
    runtime_env = dict(file.config.cluster.runtime_env)
    passed = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
    patience = {_STOP_WAIT: str(round(file.config.cluster.leave_s + ENDING_S))}
    runtime_env["env_vars"] = passed | patience | runtime_env.get("env_vars", {})
    result = submit(
        address=address,
        run_name=file.config.name,
        working_dir=folder,
        entrypoint=_entrypoint(folder, inside, sets, flags),
        identity=hash_json(dump(file.config)),
        runtime_env=runtime_env,
        excludes=[],
        follow=follow,
        how_to_stop=_how_to_stop(file.config),
        check=lambda shipped: check_shipped(file, folder, inside, shipped, say),
        echo=say,
    )
    return result.exit_code


def _how_to_stop(config: RunConfig) -> str:
    """What to type so that a run leaves in order; empty where its storage is a folder of the job's own."""
    run = join(config.storage, config.name)
    return f"`stillhouse stop {run}`" if "://" in run or run.startswith("/") else ""


def _entrypoint(folder: Path, config: Path, sets: list[str], flags: Sequence[str]) -> str:
    """From a checkout its own code runs, shipped with it; elsewhere the `stillhouse` that the nodes have installed."""
    command = "python -m orchestrator" if (folder / "orchestrator" / "__main__.py").exists() else "stillhouse"
    words = ["run", config.as_posix(), *(w for s in sets for w in ("--set", s)), *flags]
    return f"{command} {shlex.join(words)}"
