"""What every page of ours carries in itself: its style and its one script, with the digest that lets it run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def own_assets() -> dict[str, str]:
    """`style`, `script` and `script_hash`, as the templates name them."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": _asset("page.css"), "script": script, "script_hash": digest}


def _asset(name: str) -> str:
    return files("orchestrator.render").joinpath("templates", name).read_text(encoding="utf-8")
