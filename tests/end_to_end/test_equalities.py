"""The equalities that make a run trustworthy, on a small job: fp32, CPU, real Ray, DeepSpeed and Parquet.

One reference run captures and trains at the same time. Others get there in other ways, and must end at the same bits.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from end_to_end.faults import Faults
from end_to_end.small_job import STUDENT, WORDS, Job
from safetensors.numpy import load_file

from cluster.storage import open_storage
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore


@pytest.fixture(scope="module")
def reference(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that was run in one go: one replica, students on the live stream."""
    job = Job(tmp_path_factory.mktemp("reference"), teacher)
    job.output = job.run("run")  # type: ignore[attr-defined]
    return job


def run_folder(job: Job) -> Path:
    return job.folder / "runs" / "job"


def entries(job: Job, split: str = "train") -> list[Entry]:
    return TargetStore(open_storage(str(run_folder(job))), split).log.entries()


def contents(job: Job, split: str = "train") -> list[str]:
    return [e.content_hash for e in entries(job, split)]


def final(job: Job, student: str) -> Path:
    return run_folder(job) / "students" / student / "final"


def then(job: Job, student: str) -> Path:
    """A specialist as it was when its control ended."""
    return run_folder(job) / "students" / student / "at_control_tokens"


def same_weights(a: Path, b: Path) -> bool:
    one, two = (load_file(folder / "model.safetensors") for folder in (a, b))
    return one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)


def weights_equal(a: Job, b: Job, student: str) -> bool:
    return same_weights(final(a, student), final(b, student))


def test_report_has_what_it_promises(reference: Job) -> None:
    report = json.loads((run_folder(reference) / "report.json").read_text())
    teacher = report["teachers"]["teacher"]
    assert teacher["ep_size"] == 2 and teacher["tokens"] > 0 and teacher["tokens_per_s"] > 0 and teacher["model"]
    assert {"scheme", "tokens", "bytes_per_token", "kept_per_token"} <= report["targets"].keys()
    assert report["targets"]["tokens"] == sum(e.targets for e in entries(reference))
    for student in report["students"].values():
        assert student["tokens"] >= 2400 and student["steps"] >= 10 and student["export"]
        assert [artefact["path"] for artefact in student["artefacts"]] == [student["export"]]
        for score in (student[m] for m in ("heldout", "initial", "hard_labels", "at_control_tokens")):
            assert score["kl_low"] <= score["kl"] <= score["kl_high"]
            assert {"top1_agreement", "perplexity", "ece_teacher", "overconfidence_gap"} <= score.keys()
        assert student["heldout"]["kl"] < student["initial"]["kl"]
        at_equal_tokens = student["at_control_tokens"]["kl"] - student["hard_labels"]["kl"]
        assert student["difference"]["kl"] == pytest.approx(at_equal_tokens, abs=1e-9)
        assert 1200 <= student["hard_labels_tokens"] < 1400 < student["tokens"], "it stopped half-way, at a step's end"
    assert {"teacher_s", "students_s", "wall_s", "overlap_s", "spans"} == report["timing"].keys()
    assert report["trained"].keys() == {f"{s}{c}" for s in ("medical", "legal") for c in ("", ".hard_labels")}
    assert all(cost["seconds"] > 0 and cost["flops"] > 0 for cost in report["trained"].values())
    assert report["table"]["medical"].keys() == {"medical", "legal"}


def test_exports_load_with_transformers(reference: Job) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run_folder(reference) / "exports" / "medical"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model(**tokenizer("w1 w2", return_tensors="pt")).logits.shape[-1] == len(tokenizer)
    assert "distilled by Stillhouse" in (folder / "README.md").read_text()


def test_a_second_run_captures_and_trains_nothing(reference: Job) -> None:
    before = {p: p.stat().st_mtime_ns for p in run_folder(reference).glob("targets/**/*") if p.is_file()}
    before |= {p: p.stat().st_mtime_ns for p in run_folder(reference).glob("students/*/final/*")}
    output = reference.run("run")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "nothing to capture" in output and "training" not in output
    assert "exports/medical" in reference.run("export")
    assert reference.run("report").strip().endswith("report.html")


def test_two_replicas_on_s3_and_no_event_at_all_give_the_same_bits(
    reference: Job, teacher: Path, tmp_path: Path, bucket: str
) -> None:
    """Events are only shown: without any, weights and report are the same, but for its seconds. Two processes score."""
    job = Job(tmp_path / "elsewhere", teacher)
    two = [word for key in ("teacher.replicas", "evaluate.workers") for word in ("--set", f"{key}=2")]
    output = job.run("run", "--set", f"storage={bucket}", *two, STILLHOUSE_DROP="events")
    told = (" trains: ", "teacher is done: ")
    assert all(word in reference.output and word not in output for word in told)  # type: ignore[attr-defined]
    there = open_storage(f"{bucket}/job")
    assert [e.content_hash for e in TargetStore(there, "train").log.entries()] == contents(reference)
    for student in ("medical", "medical.hard_labels", "legal", "legal.hard_labels"):
        there.download_folder(f"students/{student}/final", tmp_path / student)
        assert same_weights(tmp_path / student, final(reference, student))
    for student in ("medical", "legal"):
        there.download_folder(f"students/{student}/at_control_tokens", tmp_path / f"{student}-then")
        assert same_weights(tmp_path / f"{student}-then", then(reference, student))
        assert not same_weights(then(reference, student), final(reference, student))
    reports = [json.loads(data) for data in (there.read("report.json"), report_of(reference).read_bytes())]
    assert timeless(reports[0]) == timeless(reports[1])
    beside = reference.run("report", f"{bucket}/job")
    assert beside.count("+0.0000 (+0.0000 … +0.0000)") == 2, "a specialist each, on the same text"


def timeless(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what a clock says."""
    for clocked in ("timing", "costs", "spent"):
        report.pop(clocked)
    for trained in report["trained"].values():
        trained.pop("seconds")
        trained.pop("waited_s")
    for student in report["students"].values():
        assert student.pop("cost")["teacher_share"] > 0
        for artefact in student["artefacts"]:
            artefact.pop("stamp")
    for teacher in report["teachers"].values():
        teacher.pop("tokens_per_s")
    return report


def report_of(job: Job) -> Path:
    return run_folder(job) / "report.json"


@pytest.mark.long
def test_a_finished_store_trains_to_the_same_bits(reference: Job, teacher: Path, tmp_path: Path) -> None:
    job = captured_like(reference, Job(tmp_path / "finished", teacher))
    job.run("train", "--only", "medical")
    assert weights_equal(job, reference, "medical")
    assert weights_equal(job, reference, "medical.hard_labels")


def test_killed_teacher_resumes_and_nothing_is_captured_twice(reference: Job, teacher: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "killed", teacher)
    job.kill_at("part-written:3", "capture")  # its part lies there, its entry does not
    before = entries(job)
    assert 0 < len(before) < len(entries(reference))
    output = job.run("capture", "--limit", "3")
    assert "medical/" in output or "legal/" in output  # answers to read
    after = entries(job)
    assert len(after) == len(before) + 3
    assert {e.unit: e.content_hash for e in after}.items() <= {
        e.unit: e.content_hash for e in entries(reference)
    }.items()
    # An entry that was committed stays as it was, epoch and all.
    assert [e for e in after if e.epoch == 1] == before


@pytest.mark.long
def test_a_killed_rank_costs_its_worker_group_a_restart_and_nothing_else(
    reference: Job, teacher: Path, tmp_path: Path
) -> None:
    """And a second replica, for which there is no room, waits and does not stop the run."""
    job = Job(tmp_path / "rank", teacher)
    room = {"cluster.cpus": 1, "teacher.cpus_per_rank": 0.5, "teacher.replicas": [1, 2]}
    settings = [part for k, v in room.items() for part in ("--set", f"{k}={v}")]
    settings += ["--set", "cluster.placement_deadline_s=3"]
    output = job.kill_rank_at("after-entry:2", "capture", "--limit", "5", *settings)
    assert "died (killed" in output and "run again" in output
    captured = {e.unit: e.content_hash for e in entries(job)}
    assert len(captured) == 5
    assert captured.items() <= {e.unit: e.content_hash for e in entries(reference)}.items()
    assert {e.epoch for e in entries(job)} == {1}


@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.long)])
def test_killed_student_ends_with_the_weights_of_one_never_killed(
    reference: Job, again: bool, teacher: Path, tmp_path: Path
) -> None:
    job = captured_like(reference, Job(tmp_path / "killed", teacher))
    job.kill_at("checkpoint-files:2", "train", "--only", "medical")  # its files lie there, its pointer does not
    assert len(list((run_folder(job) / "students" / "medical" / "log").iterdir())) == 1
    if again:
        job.kill_at("step-done:2", "train", "--only", "medical")  # between steps, from a checkpoint
    job.run("train", "--only", "medical")
    assert weights_equal(job, reference, "medical")
    assert weights_equal(job, reference, "medical.hard_labels")
    assert same_weights(then(job, "medical"), then(reference, "medical"))


@pytest.mark.long
def test_a_specialist_more_takes_over_a_run_at_work_and_changes_nothing_of_the_others(
    reference: Job, teacher: Path, tmp_path: Path
) -> None:
    """The first driver is asked through the storage; its student leaves with a checkpoint and goes on in the second."""
    job = captured_like(reference, Job(tmp_path / "joined", teacher))
    job.write(job.config | {"specialists": {"medical": job.config["specialists"]["medical"]}})
    first = job.start_until("step-done:6", 300, "train")  # its last checkpoint is that of step 4
    job.write(job.config)
    second = job.start("train", "--take-over")
    assert first.stdout is not None
    said = next(line for line in first.stdout if "students write their checkpoints" in line)
    assert "asked to stop by host" in said and f"pid {second.pid}" in said
    time.sleep(2)  # its student hears of it meanwhile
    job.go_on()
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM and "the same command resumes" in output
    asked = sorted(p.name for p in (run_folder(job) / "students" / "medical" / "log").iterdir())[-1]
    assert "00000006" <= asked < "00000008", "it had heard of it by the next step"
    output, _ = second.communicate(timeout=400)
    assert second.returncode == 0, output[-3000:]
    for student in ("medical", "medical.hard_labels", "legal", "legal.hard_labels"):
        assert weights_equal(job, reference, student)


@pytest.mark.long
def test_a_run_that_is_asked_to_stop_leaves_with_a_checkpoint_and_goes_on_as_if_it_had_not(
    reference: Job, teacher: Path, tmp_path: Path
) -> None:
    job = captured_like(reference, Job(tmp_path / "stopped", teacher))
    driver = job.start_until("step-done:6", 3, "train", "--only", "medical")  # its last checkpoint is that of step 4
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 128 + signal.SIGTERM
    assert "a checkpoint of step" in output and output.strip().endswith("the same command resumes")
    asked = sorted(p.name for p in (run_folder(job) / "students" / "medical" / "log").iterdir())[-1]
    assert "00000006" <= asked < "00000008", "it had heard of it by the next step"
    assert (run_folder(job) / "attempts" / "0001.end.json").exists(), "the next attempt need not wait"
    job.run("train", "--only", "medical")
    assert weights_equal(job, reference, "medical")
    assert weights_equal(job, reference, "medical.hard_labels")


@pytest.mark.long
def test_a_few_faults_cost_time_and_nothing_else(
    reference: Job, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer series are in test_faults.py. A commit stands for a while, so that a pool is there to be killed."""
    for name, value in {"AT": "before-entry:3", "DIR": str(tmp_path), "S": "20"}.items():
        monkeypatch.setenv(f"STILLHOUSE_PAUSE_{name}", value)
    faults = Faults(Job(tmp_path / "hit", teacher), ["pool", "supervisor", "SIGINT"], seed=0, pause_s=(0.1, 0.5))
    faults.run(3)
    assert [fault.kind for fault in faults.done] == faults.kinds
    for split in ("train", "heldout"):
        assert contents(faults.job, split) == contents(reference, split)
    for student in ("medical", "medical.hard_labels", "legal", "legal.hard_labels"):
        assert weights_equal(faults.job, reference, student)
    assert "ActorDiedError" not in faults.output() and "common causes" not in faults.output()


@pytest.mark.long
def test_one_failed_specialist_is_reported_and_the_others_finish(reference: Job, teacher: Path, tmp_path: Path) -> None:
    job = captured_like(reference, Job(tmp_path / "failing", teacher))
    broken = student_of_no_numbers(teacher, tmp_path / "broken")
    rash = "specialists.rash={mix: {legal: 1}, train: {lr: 1}}"
    output = job.run(
        "run", "--set", f"specialists.legal.model={{base: {broken}, config: null}}", "--set", rash, expect=1
    )
    assert "legal FAILED" in output and "loss of step 1 is nan" in output and "weights it starts from" in output
    report = json.loads((run_folder(job) / "report.json").read_text())
    assert "legal" in report["failures"] and report["students"]["legal"]["heldout"] is None
    assert "NothingLearned: rash: on its first batch" in report["failures"]["rash"] and "train.lr" in output
    assert weights_equal(job, reference, "medical")
    assert (run_folder(job) / "students" / "legal" / "failed-step-1.json").exists()
    assert not final(job, "rash").exists()


def test_a_student_that_cannot_step_ends_a_run_before_its_teacher_starts(teacher: Path, tmp_path: Path) -> None:
    """Nothing is made, and the name is free for the next try."""
    job = Job(tmp_path / "untried", teacher)
    sizes = "hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
    bert = f"specialists.legal={{model: {{config: {{model_type: bert, {sizes}}}}}}}"
    job.config["defaults"].pop("model")
    job.config["specialists"]["medical"]["model"] = {"config": STUDENT}
    (job.folder / "job.yaml").write_text(yaml.safe_dump(job.config))
    output = job.run("run", "--set", bert, expect=2)
    [error] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "bert sees tokens that come later" in error and "teacher" not in output
    assert "is fine" in job.run("validate", "--set", bert.replace("bert,", "bert, is_decoder: true,"))


def student_of_no_numbers(teacher: Path, folder: Path) -> Path:
    """A base of the teacher's tokenizer with one weight that is NaN or Inf, as a damaged download may have."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

    model = AutoModelForCausalLM.from_config(Qwen3Config(**STUDENT, vocab_size=len(WORDS)))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(folder)
    return folder


def captured_like(reference: Job, job: Job) -> Job:
    """The job with the reference's prompts and targets, as if it had been captured; its students are to be trained."""
    for part in ("prompts", "targets"):
        shutil.copytree(run_folder(reference) / part, run_folder(job) / part)
    return job


def damage(job: Job, unit: int, *, delete: bool = False) -> None:
    """Flip one bit of a training unit's part, or lose it."""
    path = run_folder(job) / entries(job)[unit].parts[0].key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if delete else path.write_bytes(data)


@pytest.mark.long
def test_a_damaged_shard_ends_training_until_it_is_recomputed(reference: Job, teacher: Path, tmp_path: Path) -> None:
    job = captured_like(reference, Job(tmp_path / "damaged", teacher))
    damage(job, 2)
    output = job.run("train", "--only", "medical", expect=1)
    assert "medical FAILED: " in output and "unit 2: the bytes of targets/train/parts/" in output
    assert "run `stillhouse capture CONFIG`" in output and "resumes from its last checkpoint" in output
    output = job.run("capture")
    assert "1 units (1 recomputed, as they are damaged)" in output and "recomputed, with the same contents" in output
    assert {e.unit: e.revision for e in entries(job) if e.revision} == {2: 1}
    assert contents(job) == contents(reference)
    job.run("train", "--only", "medical")
    assert weights_equal(job, reference, "medical")
    assert weights_equal(job, reference, "medical.hard_labels")


@pytest.mark.long
def test_a_run_captures_again_what_its_students_find_damaged(reference: Job, teacher: Path, tmp_path: Path) -> None:
    """One part is missing, as the run sees at once; bytes of another changed, as only a student sees."""
    job = captured_like(reference, Job(tmp_path / "damaged", teacher))
    damage(job, 1, delete=True)
    damage(job, 4)
    output = job.run("run")
    assert "unit 4 is damaged: the bytes of" in output
    assert {e.unit: e.revision for e in entries(job) if e.revision} == {1: 1, 4: 1}
    assert contents(job) == contents(reference)
    for student in ("medical", "medical.hard_labels", "legal", "legal.hard_labels"):
        assert weights_equal(job, reference, student)
    assert "damaged and recomputed: 2 units, 2 repairs with the same contents" in output


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_evaluation_goes_on_and_scores_nothing_twice(reference: Job, workers: str) -> None:
    before = json.loads(report_of(reference).read_text())
    scores, arguments = run_folder(reference) / "scores", ("--set", f"evaluate.workers={workers}")
    shutil.rmtree(scores)
    reference.kill_at("unit-scored:3", "evaluate", *arguments)
    scored = {p: p.stat().st_mtime_ns for p in scores.rglob("*.parquet")}
    assert len(scored) >= 3
    assert f"evaluate: {len(scored)} of " in reference.run("evaluate", *arguments)
    after = {p: p.stat().st_mtime_ns for p in scores.rglob("*.parquet")}
    assert len(after) > len(scored) and scored.items() <= after.items()
    assert json.loads(report_of(reference).read_text())["table"] == before["table"]
