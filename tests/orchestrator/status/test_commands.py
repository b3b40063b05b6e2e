"""`stillhouse status`, `runs` and `logs` as they are typed: what they print, and how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.project import Outcome
from support.servers.s3_servers import reached_at
from support.toys.watched_run import BEGAN, begun, driven, ending, story, tell

from cluster.config import ClusterConfig
from cluster.storage import LocalStorage
from orchestrator.cli import watching
from workers.channels.events import NodeJoined, PlaceEnded, PlaceWanted

CHECKOUT = Path(__file__).resolve().parents[3]
Stillhouse = Callable[..., Outcome]


def test_status_says_how_a_run_stands(stillhouse: Stillhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = begun("runs", cluster={"prices": {"cpu_hour": 36.0}})
    driven(run.storage)
    tell(run.storage, 1, story())
    shown = stillhouse("status", "clinic")
    assert shown.code == 0 and not shown.err
    for words in (
        "capture and train", "4/8 units", "500/1k", "running: attempt 1 (host far-away, pid 4711",
        "medical waited for units 4 s, 20% of its time at work", "FAILED legal: ValueError: loss is NaN at step 7",
        "cost so far: 0.0", "separate runs would take $", "fan-out saved",
    ):  # fmt: skip
        assert words in " ".join(shown.out.split()), shown.out
    found = json.loads(stillhouse("status", run.uri, "--json").out)
    assert {"stage", "tokens", "rates", "waiting", "failures", "cost", "eta_s"} <= found.keys()
    assert found["cost"]["dollars"] == pytest.approx(found["cost"]["cpu_s"] / 100)


def test_status_says_which_nodes_there_are_and_who_waits_for_a_place(stillhouse: Stillhouse, tmp_path: Path) -> None:
    run = begun(str(tmp_path))
    driven(run.storage)
    nodes = [NodeJoined(node=str(i), role=role, joined=BEGAN) for i, role in enumerate(("head", "teacher", "teacher"))]
    wants = [PlaceWanted(place=f"r{i}", teacher="big", processes=8) for i in range(2)]
    tell(run.storage, 1, story(), nodes, wants)
    shown = " ".join(stillhouse("status", run.uri).out.split())
    assert "nodes: 1 head, 2 teacher" in shown and "waits for a place: teacher big (2) since 0:0" in shown
    found = json.loads(stillhouse("status", run.uri, "--json").out)
    assert found["nodes"] == {"head": 1, "teacher": 2}
    assert found["waiting_for_places"] == [{"part": "teacher big", "places": 2, "since": wants[0].time}]
    monitor = tell(run.storage, 2, [*story(attempt=2), *nodes[:1], PlaceEnded(place="r0", teacher="big", found=True)])
    driven(run.storage, 2)
    shown = stillhouse("status", run.uri).out
    assert monitor is not None and "nodes:" not in shown and "for a place" not in shown, "one node is no cluster"


def test_the_commands_of_the_readme_run(
    stillhouse: Stillhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = begun("runs")
    driven(run.storage, ended=True)
    tell(run.storage, 1, [e for e in story() if getattr(e, "student", "") != "legal"], ending())
    section = (CHECKOUT / "README.md").read_text().split("### Watch it\n")[1].split("\n#")[0]
    typed = [line.split("#")[0].split()[1:] for line in section.splitlines() if line.startswith("    stillhouse ")]
    assert {words[0] for words in typed} == {"status", "runs", "logs"} and len(typed) >= 6
    for words in typed:
        named = {"RUN": "clinic", "STORAGE": "runs", "NAME": "medical"}
        done = stillhouse(*(named.get(word, word) for word in words))
        assert done.code == 0 and done.out and not done.err, f"{words}\n{done.out}{done.err}"
    [shown] = [yaml.safe_load(text.split("```")[0]) for text in section.split("```yaml\n")[1:]]
    assert ClusterConfig.model_validate(shown["cluster"]).prices


def test_status_by_the_yaml_of_a_run(stillhouse: Stillhouse, tmp_path: Path) -> None:
    run = begun(str(tmp_path))
    driven(run.storage, ended=True)
    tell(run.storage, 1, [e for e in story() if getattr(e, "student", "") != "legal"], ending())
    wanted = {"name": "clinic", "storage": str(tmp_path), "teacher": {"model": "t"}, "prompts": {"medical": "m.jsonl"}}
    (tmp_path / "run.yaml").write_text(json.dumps(wanted | {"specialists": {"medical": {"model": "s"}}}))
    shown = stillhouse("status", tmp_path / "run.yaml")
    assert shown.code == 0 and "done: attempt 1" in shown.out


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"silent_s": 500_000}, 1, "has been silent for 5d"),
        ({"ended": True}, 1, "failed: attempt 1"),
        ({}, 0, "running: attempt 1"),
    ],
)
def test_the_exit_code_is_for_programs(
    stillhouse: Stillhouse, tmp_path: Path, how: dict[str, object], code: int, words: str
) -> None:
    run = begun(str(tmp_path))
    driven(run.storage, **how)  # type: ignore[arg-type]
    tell(run.storage, 1, story())
    shown = stillhouse("status", run.uri)
    assert shown.code == code and words in shown.out
    assert stillhouse("status", run.uri, "--json").code == code


def test_watching_goes_on_until_the_run_ends(
    stillhouse: Stillhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, slept = begun(str(tmp_path)), list[float]()
    driven(run.storage)
    monitor = tell(run.storage, 1, [e for e in story() if getattr(e, "student", "") != "legal"])

    def end(seconds: float) -> None:
        """Between two looks, the run ends."""
        slept.append(seconds)
        for event in ending():
            monitor.take(event)
        monitor.stop()
        driven(run.storage, ended=True)

    monkeypatch.setattr(watching, "sleep", end)
    shown = stillhouse("status", run.uri, "--watch", "7", "--json")
    assert slept == [7]
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [lines[0]["state"], lines[-1]["state"]] == ["running", "done"] and shown.code == 0
    assert lines[-1]["stage"] == "export" and lines[-1]["students"]["medical"]["tokens"] == 1000
    said = stillhouse("logs", run.uri, "--follow").out.splitlines()
    assert said[-1].endswith("attempt ended: done")
    assert "done: attempt 1" in stillhouse("status", run.uri, "--watch").out


def test_a_storage_that_is_out_of_reach_for_a_while_ends_no_watching(
    stillhouse: Stillhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, slept = begun(str(tmp_path)), list[float]()
    driven(run.storage)
    tell(run.storage, 1, story())
    read_many = LocalStorage.read_many

    def fails(self: LocalStorage, keys: list[str]) -> list[bytes | None]:
        raise OSError("no route to host")

    def wait(seconds: float) -> None:
        slept.append(seconds)
        monkeypatch.setattr(LocalStorage, "read_many", fails if len(slept) < 3 else read_many)
        driven(run.storage, silent_s=120 if len(slept) < 3 else 0, ended=len(slept) >= 3)

    monkeypatch.setattr(watching, "sleep", wait)
    shown = stillhouse("status", run.uri, "--watch", "--json")
    assert len(slept) == 3 and shown.err.count("no route to host") == 2
    assert [json.loads(line)["state"] for line in shown.out.splitlines()] == ["running", "failed"]


def test_what_is_wrong_is_refused_with_a_remedy(stillhouse: Stillhouse, tmp_path: Path) -> None:
    run = begun(str(tmp_path))
    driven(run.storage)
    assert "`stillhouse runs STORAGE`" in stillhouse("status", "nowhere").error
    assert "no run at" in stillhouse("logs", str(tmp_path)).error
    assert "--watch" in stillhouse("status", run.uri, "3").error
    assert "there are driver, teacher, medical" in stillhouse("logs", run.uri, "nobody").error
    (tmp_path / "file").write_text("")
    assert "storage: cannot be read" in stillhouse("status", str(tmp_path / "file" / "run")).error


def test_runs_and_their_logs(stillhouse: Stillhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run lies right below 'runs'" in stillhouse("runs").out
    run = begun("runs")
    driven(run.storage)
    tell(run.storage, 1, story())
    shown = stillhouse("runs")
    assert shown.code == 0 and "0 of 2 done" in shown.out and "running" in shown.out
    [one] = json.loads(stillhouse("runs", "--json").out)["runs"]
    assert (one["name"], one["state"], one["attempt"]) == ("clinic", "running", 1)
    everything, medical, driver = (stillhouse("logs", "clinic", *n).out for n in ([], ["medical"], ["driver"]))
    assert "medical trains" in everything and "medical trains" in medical and "medical trains" not in driver
    assert "run clinic begins" in driver and "run clinic begins" not in medical


def test_a_run_on_s3(stillhouse: Stillhouse, tmp_path: Path, moto_endpoint: str) -> None:
    with reached_at(moto_endpoint) as bucket:
        run = begun(f"{bucket}/{tmp_path.name}")
        driven(run.storage)
        tell(run.storage, 1, story())
        assert "running: attempt 1" in stillhouse("status", run.uri).out
        assert "clinic" in stillhouse("runs", f"{bucket}/{tmp_path.name}").out
        assert "medical trains" in stillhouse("logs", run.uri, "medical").out
        assert stillhouse("status", f"{bucket}/no-such-run").code == 2
        assert stillhouse("runs", "s3://no-such-bucket/x").code in (0, 2)
