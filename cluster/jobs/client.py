"""Ray's job server, and what it says when it does not answer.

Ray is imported inside the functions: it loads in two seconds, and the CLI has to answer in less than one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.jobs.job_log import first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

HTTP_TIMEOUT_S = (5.0, 10.0)  # to connect, to answer: a dead address is told while the user still watches


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at http://HOST:8265, which wins over RAY_ADDRESS. Raises ValueError in seconds where
    none answers, and Ray's AuthenticationError (`asked_for_token`)."""
    if not re.match(r"https?://[^/]", address):
        raise ValueError(f"address {address!r}: give the dashboard of the cluster, such as http://head:8265")
    from ray.job_submission import JobSubmissionClient

    class TimedClient(JobSubmissionClient):
        """Ray's client waits for ever. An upload still may: how long it takes is the network's affair."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            if method == "GET":
                options.setdefault("timeout", HTTP_TIMEOUT_S)
            return super()._do_request(method, endpoint, **options)

    # Ray prefers these two to the address that it is given.
    hidden = {name: os.environ.pop(name, "") for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        return TimedClient(address)
    except (OSError, RuntimeError, KeyError) as error:  # no route, no answer, or an answer that is not Ray's
        raise no_dashboard(address, error) from None
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value})


def no_dashboard(address: str, error: BaseException) -> ValueError:
    """What to say where no dashboard answers."""
    return ValueError(
        f"no Ray dashboard answers at {address} ({first_line(error)}): is the cluster up, and the port "
        "reachable from here (kubectl port-forward, ray dashboard cluster.yaml)?"
    )


@contextmanager
def asked_for_token(address: str) -> Iterator[None]:
    """A block in which a cluster may ask for a token that is not there, or is wrong: raises ValueError then."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise ValueError(
            f"the Ray cluster at {address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the token that the cluster was started with"
        ) from None
