"""Run a command on a Ray cluster as a job: ship the working directory, follow the log, return the outcome.

A job is named after the run and the identity of its configuration. Asking twice for the same thing while it
runs attaches to the job that is there; asking again after it ended makes the next attempt. The command runs
on the head node and reserves no CPU there (`entrypoint_num_cpus` stays unset: heads are started with none).

Ray is imported inside the functions: it loads in two seconds, and the CLI has to answer in less than one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.jobs.client import asked_for_token, connect
from cluster.jobs.job_log import Echo, JobLog, follow_log
from cluster.ray_internals import walk_package

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# The dashboard refuses a longer HTTP body (client_max_size in Ray 2.60). The 512 MiB that Ray's own messages
# name are the limit of packages that do not pass the dashboard; a job's package always does.
UPLOAD_LIMIT_BYTES = 100 * 1024**2
ZIP_ENTRY_BYTES = 150  # about what two zip headers cost a file, besides its name; Ray does not compress

# Never shipped, in the syntax of .gitignore. What .gitignore and .rayignore name is left out by Ray itself.
DEFAULT_EXCLUDES = [
    *(".git", ".venv", ".venv-vllm", "venv", "__pycache__", "*.pyc", "*.egg-info", ".cache", ".*_cache", "/runs"),
    *(".env", ".env.*", ".netrc", ".aws", "*.pem"),
]

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C

SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
SECRET_MIN_LENGTH = 8  # shorter values ("false", "8") are no secrets, and hiding them would garble the log


@dataclass(frozen=True)
class SubmitResult:
    """Where a submission stands when `submit` returns.

    `status` is Ray's (PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED), UNKNOWN if the cluster is out of reach.
    `exit_code` is 0 if the job succeeded or was not to be followed, 130 after Ctrl-C, 1 in every other case.
    """

    submission_id: str
    status: str
    exit_code: int


def submit(
    *,
    address: str,
    run_name: str,
    working_dir: Path,
    entrypoint: str,
    identity: str,
    runtime_env: dict[str, Any],
    excludes: list[str],
    follow: bool = True,
    how_to_stop: str = "",
    check: Callable[[Collection[Path]], None] = lambda shipped: None,
    echo: Echo,
) -> SubmitResult:
    """Submit `entrypoint`, or attach to the job that runs it already, and follow its log line by line.

    `address` is the dashboard's (http://host:8265) and wins over RAY_ADDRESS. `identity` is a hash of the
    resolved configuration. `runtime_env` goes to Ray as it is (secrets in its `env_vars` are not printed);
    a `working_dir` URI in it replaces the shipping. `excludes` are .gitignore patterns, beside the defaults.
    `how_to_stop` is what to type to end the job, in words; Ray's own command by default. `check` is called with the
    files that are shipped, before they are, and may raise ValueError.

    Raises ValueError for what the user can fix: an address that does not answer, a missing token, a working
    directory over 100 MiB, a wrong name or runtime environment, a job that the cluster refuses or forgot.
    """
    base = submission_base(run_name, identity)
    environment = resolve_runtime_env(runtime_env, working_dir, excludes)
    hide = _hider(environment.get("env_vars", {}))
    with asked_for_token(address):
        client = connect(address)
        submission_id, running = choose_submission(base, _known_jobs(client))
        if not running:
            _check_upload(environment, check, echo)
            metadata = {"run": run_name, "identity": identity}
            try:
                client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env=environment,
                    metadata=metadata,
                )
            except (RuntimeError, TypeError) as error:  # an HTTP refusal; a field that RuntimeEnv refuses
                running = (submission_id, False) in _known_jobs(client)  # somebody else was faster
                if not running:
                    raise ValueError(f"job {submission_id} was refused: {hide(str(error))}") from None
        echo(f"{'attached to the running' if running else 'submitted'} job {submission_id} at {address}")
        how = _how_to_go_on(submission_id, address, how_to_stop)
        if follow:
            return _watch(client, address, submission_id, hide, how, echo)
        echo(how)
        return SubmitResult(submission_id, str(client.get_job_status(submission_id)), 0)


def submission_base(run_name: str, identity: str) -> str:
    """The id of the first attempt: the same run with the same configuration always gets the same one."""
    base = f"stillhouse-{run_name}-{identity[:8]}"
    if len(identity) < 8 or not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", base):
        raise ValueError(
            f"{base!r} cannot name a Ray job: give a run name of letters, digits, '.', '_' and '-', "
            "and an identity of at least 8 of them"
        )
    return base


def choose_submission(base: str, jobs: Iterable[tuple[str, bool]]) -> tuple[str, bool]:
    """From (submission id, has ended) of all jobs: the id to use, and whether a job of that id is running."""
    attempts: dict[int, bool] = {}
    for submission_id, ended in jobs:
        if match := re.fullmatch(re.escape(base) + r"(?:-(\d{1,4}))?", submission_id):
            attempts[int(match[1] or 1)] = ended
    running = [number for number, ended in attempts.items() if not ended]
    number = max(running) if running else max(attempts, default=0) + 1
    return base if number == 1 else f"{base}-{number}", bool(running)


def resolve_runtime_env(runtime_env: dict[str, Any], working_dir: Path, excludes: list[str]) -> dict[str, Any]:
    """The caller's runtime environment, and what is shipped. ValueErrors name variables, never values."""
    variables = runtime_env.get("env_vars", {})
    if not isinstance(variables, dict):
        raise ValueError("runtime_env.env_vars has to map names to strings")
    for name, value in variables.items():
        if not isinstance(value, str):
            raise ValueError(f"runtime_env.env_vars: {name} has to be a string (quote it)")
    if "working_dir" in runtime_env:
        if "://" not in str(runtime_env["working_dir"]):
            raise ValueError("runtime_env.working_dir has to be a URI (s3://.../code.zip), not a folder")
        return dict(runtime_env)
    if not working_dir.is_dir():
        raise ValueError(f"working directory {working_dir} is not a folder")
    patterns = [*DEFAULT_EXCLUDES, *runtime_env.get("excludes", []), *excludes]
    return {**runtime_env, "working_dir": str(working_dir), "excludes": patterns}


def shipped_files(working_dir: Path, excludes: list[str]) -> dict[Path, int]:
    """Relative path and size in bytes of each file that Ray would put in the package."""
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root)] = path.stat().st_size

    root = working_dir.absolute()
    use_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    walk_package(root, excludes, note, gitignore=use_gitignore)
    return sizes


def _check_upload(environment: dict[str, Any], check: Callable[[Collection[Path]], None], echo: Echo) -> None:
    """Say what will be shipped; ValueError, naming the largest entries, if the dashboard would refuse it."""
    if "excludes" not in environment:
        return  # the code is fetched from a URI
    folder = environment["working_dir"]
    sizes = shipped_files(Path(folder), environment["excludes"])
    check(sizes)
    total = sum(size + ZIP_ENTRY_BYTES + 2 * len(str(path)) for path, size in sizes.items())
    if total >= UPLOAD_LIMIT_BYTES:
        entries: Counter[str] = Counter()
        for path, size in sizes.items():
            entries[path.parts[0]] += size
        largest = ", ".join(f"{name} {_mib(size)}" for name, size in entries.most_common(3))
        raise ValueError(
            f"working directory {folder} is {_mib(total)}, a job may ship {_mib(UPLOAD_LIMIT_BYTES)} "
            f"(largest: {largest}): exclude data and checkpoints, or keep them in the storage"
        )
    echo(f"shipping {folder}: {len(sizes)} files, {_mib(total)}")


def _known_jobs(client: JobSubmissionClient) -> list[tuple[str, bool]]:
    # Drivers that were not submitted as jobs have no submission id.
    return [(job.submission_id, job.status.is_terminal()) for job in client.list_jobs() if job.submission_id]


def _watch(
    client: JobSubmissionClient,
    address: str,
    submission_id: str,
    hide: Callable[[str], str],
    how: str,
    echo: Echo,
) -> SubmitResult:
    """Follow a job's log to its end. `how`: what to type to go on without this."""
    log = JobLog(lambda line: echo(hide(line)))
    try:
        job = follow_log(client, address, submission_id, log, echo)
    except KeyboardInterrupt:
        echo(f"stopped following; the job goes on. {how}")
        return SubmitResult(submission_id, "RUNNING", INTERRUPTED)
    if job is None:
        echo(f"{address} is out of reach; the job may go on. {how}")
        return SubmitResult(submission_id, "UNKNOWN", 1)
    message = hide(job.message or "")
    if log.shown:  # Ray's message on a failed command repeats the end of the log
        message = message.partition("\n")[0]
    echo(f"job {submission_id} {job.status}: {message}")
    return SubmitResult(submission_id, str(job.status), 0 if str(job.status) == "SUCCEEDED" else 1)


def _hider(env_vars: dict[str, str]) -> Callable[[str], str]:
    """A function that blots out the values of variables whose name says that they are secret."""
    secrets = [v for name, v in env_vars.items() if SECRET_NAME.search(name) and len(v) >= SECRET_MIN_LENGTH]

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return hide


def _how_to_go_on(submission_id: str, address: str, how_to_stop: str) -> str:
    at = f"--address {address} {submission_id}"
    stop = how_to_stop or f"`ray job stop {at}`"
    return f"To follow: the same command again, or `ray job logs --follow {at}`. To end it: {stop}"


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
