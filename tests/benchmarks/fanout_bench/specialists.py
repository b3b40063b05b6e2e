"""One run of several specialists beside as many runs of one, and beside what cannot be had for less: the teacher's work
once, each training once, and one start.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml
from targets_bench.tables import show

from fanout_bench.measuring import CHECKOUT, Took, measured
from orchestrator.config.loading import load_config

TOGETHER = str(Path(__file__).with_name("together.py"))


@dataclass(frozen=True)
class Project:
    """A configuration, of which runs of some of its specialists are made."""

    config: Path
    folder: Path
    tokens: int
    """Target tokens of each specialist."""

    @property
    def names(self) -> list[str]:
        """The specialists of its configuration."""
        return list(load_config(self.config, []).config.specialists)

    def write(self, name: str, specialists: int, first: int = 0) -> str:
        """A run of so many specialists, the configuration's one after another and again under other names, beginning
        with one of them; the path of its file. Without controls, so that all that trains is a specialist."""
        data = load_config(self.config, []).located().model_dump(mode="json")
        there, chosen = data["specialists"], {}
        for i, own in enumerate(islice(cycle([*there][first:] + [*there][:first]), specialists)):
            again = i // len(there)
            mix = there[own]["mix"] or {own: 1.0}
            train = {**there[own]["train"], "tokens": self.tokens}
            chosen[f"{own}-{again}" if again else own] = {**there[own], "mix": mix, "train": train}
        domains = {domain for s in chosen.values() for domain in s["mix"]}
        for part in (data["prompts"], data["domains"], data["targets"]["withhold"]):
            for other in part.keys() - domains:
                del part[other]
        evaluate = {"baselines": [], "cpus": data["evaluate"]["cpus"]}
        data |= {"name": name, "storage": str(self.folder), "specialists": chosen, "evaluate": evaluate, "export": []}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return str(path)

    def whole(self, name: str, specialists: int, first: int = 0) -> Took:
        """What a whole run took, of which nothing stays: six students of 135M parameters leave 30 GB."""
        took = _told(TOGETHER, self.write(name, specialists, first))
        shutil.rmtree(self.folder / name)
        return took


def _told(*command: str) -> Took:
    """What a command took, said at once: a later one may fail."""
    took = measured(*command)
    print(f"{' '.join(command[-3:])}: {took.wall_s:.1f} s, {took.cpu_s:.1f} CPU-s", file=sys.stderr, flush=True)
    return took


def figures(project: Project, counts: list[int]) -> dict[str, Any]:
    """All runs, and the shares that they have of the ideal."""
    names = project.names
    alone = [project.whole(f"alone-{i}", 1, i) for i in range(min(len(names), max(counts)))]
    together = {n: project.whole(f"together-{n}", n) if n > 1 else alone[0] for n in counts}
    captured = {}
    for n in sorted({min(n, len(alone)) for n in counts}):
        path = project.write(f"captured-{n}", n)
        captured[n] = _told("-m", "orchestrator", "capture", path)
    trained = [_told("-m", "orchestrator", "train", path, "--only", name) for name in names[: len(alone)]]
    start = _told("-m", "orchestrator", "train", path)
    rows, found = [], dict[str, Any]()
    for n in counts:
        capture, students = captured[min(n, len(alone))], list(islice(cycle(trained), n))
        ideal = capture.cpu_s + sum(took.cpu_s - start.cpu_s for took in students)
        separate = sum(took.cpu_s for took in islice(cycle(alone), n))
        least = _least(capture, students, start)
        found[f"share_of_ideal_{n}"] = round(ideal / together[n].cpu_s, 3)
        found[f"over_separate_{n}"] = round(together[n].cpu_s / separate, 3)
        found[f"overlap_{n}"] = round((together[n].wall_s - start.wall_s) / least, 3)
        rows.append([n, together[n].wall_s, together[n].cpu_s, ideal, ideal / together[n].cpu_s, separate])
        rows[-1] += [sum(took.wall_s for took in islice(cycle(alone), n)), found[f"over_separate_{n}"]]
        rows[-1] += [least, found[f"overlap_{n}"]]
    heads = ["specialists", "wall s", "CPU-s", "ideal CPU-s", "share of it", "separate CPU-s", "separate wall s"]
    show("one run of several specialists", [*heads, "over separate", "least wall s", "over least"], rows)
    return found | {"overlap": found[f"overlap_{max([n for n in counts if n <= len(alone)] or counts)}"]}


def _least(capture: Took, students: list[Took], start: Took) -> float:
    """Seconds that a run can take at least, beside its start: the teacher's alone, the longest of the students' alone,
    or what the machine's cores take for the work of all of them."""
    work = capture.cpu_s + sum(took.cpu_s for took in students) - (len(students) + 1) * start.cpu_s
    alone = [took.wall_s - start.wall_s for took in (capture, *students)]
    return max(*alone, work / (os.cpu_count() or 1))


QUICKSTART = CHECKOUT / "examples" / "quickstart" / "stillhouse.yaml"
