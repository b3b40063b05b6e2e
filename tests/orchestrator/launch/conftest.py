"""A folder from which clusters are rendered."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clusters.rendered import Clinic


@pytest.fixture
def clinic_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    monkeypatch.chdir(tmp_path)
    return Clinic(tmp_path)
