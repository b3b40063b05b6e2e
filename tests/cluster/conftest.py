"""What tests of submission share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_ray_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the caller's Ray settings reaches the command."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
