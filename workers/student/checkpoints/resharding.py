"""A DeepSpeed checkpoint for another number of workers: cut by parameter instead of by rank.

A ZeRO checkpoint holds one slice of the flat optimiser state for each worker, and refuses any other number of them.
DeepSpeed's universal format holds each parameter whole (weights and AdamW's two moments, float32), from which any
number of workers takes its slices. Nothing is rounded on the way.
"""

from __future__ import annotations

import io
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def convert(written: Path, folder: Path) -> None:
    """Make universal files in a new folder from a checkpoint with the files of all its ranks, in this process alone.

    Needs as much room on the disk as the checkpoint takes, twice for a while.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    folder.mkdir(parents=True)
    options = Namespace(
        input_folder=str(written),
        output_folder=str(folder),
        num_extract_workers=1,  # more are a process pool, which a Ray worker should not fork
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it draws progress bars
        main(options)


def load_converted(engine: Any, folder: Path, tag: str) -> None:
    """Load universal files into an engine of any number of workers. A collective."""
    # DeepSpeed takes this from the configuration that an engine starts with; which checkpoint is the newest, and who
    # wrote it, is only known once the workers can talk.
    engine._config.load_universal_checkpoint = True
    engine.load_checkpoint(str(folder), tag=tag)
    engine._config.load_universal_checkpoint = False
