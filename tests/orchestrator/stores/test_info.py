"""`stillhouse targets info`, and what all three commands refuse, on real stores of a tiny teacher."""

from __future__ import annotations

import json

import pytest
from support.captured_run import RUN, CapturedRun, Command, capture, found
from support.project import Project


def test_info_adds_up_the_entries(captured: CapturedRun, stillhouse: Command) -> None:
    info, entries = found(stillhouse, "info", RUN), captured.entries()
    assert info["units"] == {"planned": len(entries), "committed": len(entries), "missing": 0}
    for name in ("rows", "tokens", "targets", "num_kept"):
        assert info[name] == sum(getattr(e, name) for e in entries)
    assert info["bytes"] == sum(captured.part(e.unit).stat().st_size for e in entries)
    assert info["bytes_per_token"] == round(info["bytes"] / info["targets"], 2)
    assert sum(d["targets"] for d in info["domains"].values()) == info["targets"]
    assert set(info["domains"]) == {"medical", "legal"}
    assert info["header"]["scheme"] == "systematic" and info["header"]["teachers"]["teacher"]["fingerprint"]


def test_info_reads_no_part(captured: CapturedRun, stillhouse: Command) -> None:
    before = found(stillhouse, "info", RUN)
    for entry in captured.entries():
        captured.part(entry.unit).unlink()
    assert found(stillhouse, "info", RUN) == before


def test_info_says_how_many_units_are_missing(capture_project: Project, stillhouse: Command) -> None:
    capture(capture_project, units={"train": 2})
    info = found(stillhouse, "info", RUN)
    assert info["units"]["committed"] == 2 and info["units"]["missing"] == info["units"]["planned"] - 2 > 0
    said = stillhouse("targets", "info", RUN).out
    assert f"{info['units']['missing']} of {info['units']['planned']} units are not captured yet" in said
    assert "stillhouse capture" in said


def test_info_counts_what_was_rejected_by_reason(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets.withhold", {"medical": ["rule"]})
    captured = capture(capture_project)
    aside = [item["reason"] for e in captured.entries() for item in e.rejected]
    assert aside
    assert found(stillhouse, "info", RUN)["texts_rejected"] == {"contains the withheld 'rule'": len(aside)}
    assert f"{len(aside)} × contains the withheld 'rule'" in stillhouse("targets", "info", RUN).out


def test_info_of_the_heldout_store(captured: CapturedRun, stillhouse: Command) -> None:
    info = found(stillhouse, "info", RUN, "--split", "heldout")
    assert info["header"]["scheme"] == "full" and info["kept_per_token"] == info["header"]["vocabulary"]
    assert "full, float32" in stillhouse("targets", "info", RUN, "--split", "heldout").out


def test_info_names_what_else_is_kept(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets", {"redraws": 2, "always_keep": ["<eos>"], "temperature": {"legal": 2}})
    capture(capture_project, units={"train": 0})
    said = stillhouse("targets", "info", RUN).out
    assert "systematic, 21 draws a position 2 times, always-kept ids 1, at temperature 2 (legal), else 1" in said


def test_a_split_that_is_not_there(captured: CapturedRun, stillhouse: Command) -> None:
    assert "no probes targets; it has train, heldout" in stillhouse("targets", "info", RUN, "--split", "probes").error
    assert "no such split; there are train" in stillhouse("targets", "info", RUN, "--split", "test").error
    assert "no run at" in stillhouse("targets", "verify", "nowhere").error


@pytest.mark.parametrize("verb", ["info", "verify", "show"])
def test_a_store_of_another_format_is_refused(captured: CapturedRun, stillhouse: Command, verb: str) -> None:
    path = captured.run.storage.local_path("targets/train/store.json")
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    assert "format version 1" in stillhouse("targets", verb, RUN).error
