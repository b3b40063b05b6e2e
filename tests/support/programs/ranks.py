"""Programs that run on every rank of a group at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time

from support.programs import PROGRAMS

_CHECKOUT = PROGRAMS.parents[2]


def run_ranks(program: str, ranks: int, *arguments: object, seconds: float = 300) -> None:
    """Run one of these programs as `python PROGRAM RANK RANKS PORT ARGUMENTS` on every rank; wait for all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(PROGRAMS / program)]
    path = os.pathsep.join(map(str, (_CHECKOUT, _CHECKOUT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryFile("w+") as said:
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(ranks), str(port), *map(str, arguments)],
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            for rank in range(ranks)
        ]
        deadline = time.monotonic() + seconds
        try:
            # One dead rank leaves the others waiting for it.
            while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
                assert time.monotonic() < deadline, f"{program} takes more than {seconds} s"
                time.sleep(0.1)
            codes = [process.poll() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        said.seek(0)
        assert codes == [0] * ranks, said.read()[-8000:]
