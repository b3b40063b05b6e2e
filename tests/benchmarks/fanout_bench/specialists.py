"""One run of several specialists beside as many runs of one, and beside what cannot be had for less: the teacher's work
once, each training once, and one start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml
from targets_bench.tables import show

from fanout_bench.measuring import CHECKOUT, Took, measured
from orchestrator.config.loading import load_config

TOGETHER = str(Path(__file__).with_name("together.py"))
COUNTS = (1, 2, 3, 6)


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


def figures(project: Project) -> dict[str, Any]:
    """All runs, and the shares that they have of the ideal."""
    names, run = project.names, project.write
    together = {n: measured(TOGETHER, run(f"together-{n}", n)) for n in COUNTS}
    alone = [together[1], *(measured(TOGETHER, run(f"alone-{i}", 1, i)) for i in range(1, len(names)))]
    most = min(len(names), COUNTS[-1])
    captured = {}
    for n in {min(n, most) for n in COUNTS}:
        captured[n] = measured("-m", "orchestrator", "capture", run(f"captured-{n}", n))
    path = run(f"captured-{most}", most)
    trained = [measured("-m", "orchestrator", "train", path, "--only", name) for name in names[:most]]
    start = measured("-m", "orchestrator", "train", path)
    rows, found = [], dict[str, Any]()
    for n in COUNTS:
        students = list(islice(cycle(trained), n))
        ideal = captured[min(n, most)].cpu_s + sum(took.cpu_s - start.cpu_s for took in students)
        separate = sum(took.cpu_s for took in islice(cycle(alone), n))
        found[f"share_of_ideal_{n}"] = round(ideal / together[n].cpu_s, 3)
        found[f"over_separate_{n}"] = round(together[n].cpu_s / separate, 3)
        rows.append([n, together[n].wall_s, together[n].cpu_s, ideal, ideal / together[n].cpu_s, separate])
        rows[-1] += [sum(took.wall_s for took in islice(cycle(alone), n)), found[f"over_separate_{n}"]]
    heads = ["specialists", "wall s", "CPU-s", "ideal CPU-s", "share of it", "separate CPU-s", "separate wall s"]
    show("one run of several specialists", [*heads, "over separate"], rows)
    found["overlap"] = _overlap(together[most], captured[most], trained, start)
    return found


def _overlap(run: Took, capture: Took, trained: list[Took], start: Took) -> float:
    """Seconds from when the teacher and a student first worked at the same time to the end of both, over the least that
    they can take: what is longer alone, the teacher's part of that time or the students', or what the machine's cores
    take for both."""
    spans = run.said["spans"]
    teacher, students = spans["teacher"], [span for name, own in spans.items() if name != "teacher" for span in own]
    both = max(teacher[0][0], min(begin for begin, _ in students))
    ends = [end for _, end in (*teacher, *students)]
    work = capture.cpu_s + sum(took.cpu_s for took in trained) - (len(trained) + 1) * start.cpu_s
    left = max(ends) - both
    longest = max(
        sum(max(end - max(begin, both), 0.0) for begin, end in teacher),
        max((sum(e - b for b, e in own) for name, own in spans.items() if name != "teacher"), default=0.0),
        work / (os.cpu_count() or 1),
    )
    show("at the same time", ["", "s"], [["both at work until the end", left], ["the least", longest]])
    return round(left / longest, 3)


QUICKSTART = CHECKOUT / "examples" / "quickstart" / "stillhouse.yaml"
