"""Putting rendered files into a folder, over nothing that somebody has edited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, files: Mapping[str, str], *, force: bool) -> list[Path]:
    """Write texts by file name; returns their paths. Raises ValueError, and writes none, where one is there with
    another text, unless `force`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make the folder {str(folder)!r}: {error.strerror}") from None
    paths = {folder / name: text for name, text in files.items()}
    changed = [path for path, text in paths.items() if path.exists() and path.read_text(errors="replace") != text]
    if changed and not force:
        raise ValueError(
            f"--out: {', '.join(map(str, changed))}: there already, and edited or of other settings; name another "
            "folder, or overwrite with --force"
        )
    for path, text in paths.items():
        path.write_text(text)
    return list(paths)
