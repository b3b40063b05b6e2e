"""Programs of this room, each run in a process of its own, so that its memory and its time are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]


def program(name: str, *arguments: object, python: Path | str = sys.executable) -> dict[str, Any]:
    """What a program of students_bench prints last."""
    environment = os.environ | {
        "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "2", "DS_ACCELERATOR": "cpu",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    command = [str(python), str(HERE / name), *map(str, arguments)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=CHECKOUT).stdout
    return json.loads(said.splitlines()[-1])
