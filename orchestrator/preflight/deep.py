"""What only torch and transformers can tell of a configuration: every model is built without weights, and every student
is stepped once; the user's own functions are loaded. Seconds, where `check` takes less than one."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.python_function import load_functions
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.prompts.freezing.work import teacher_tokenizers
from orchestrator.prompts.lengths import check_students_hold
from workers.student.trial.building import on_meta, parameters
from workers.student.trial.files import check_files
from workers.student.trial.trying import Tried, try_students


@dataclass
class Deep:
    """What was found."""

    teachers: dict[str, int] = field(default_factory=dict)
    """Parameters of each."""
    students: dict[str, Tried] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"teacher {name}: {count / 1e6:,.2f} M parameters, built" for name, count in self.teachers.items()]
        for name, tried in self.students.items():
            how = "one micro-batch went through it" if tried.stepped else "built; too large to be stepped here"
            told.append(f"specialist {name}: {tried.parameters / 1e6:,.2f} M parameters, {how}")
        return told


def check_deep(config: RunConfig, found: Checked) -> Deep:
    """Build and try all models of a configuration that `check` found right. Raises ValueError at the first fault."""
    deep = Deep()
    load_functions(config.answers.filter, config.evaluate.truth)
    for name in config.teachers:
        deep.teachers[name] = _built_teacher(config, name, found)
    vocabulary = teacher_tokenizers(config)[config.first_teacher()].vocabulary
    deep.students = try_students(config.specialists, config.targets.scheme, vocabulary)
    positions = {name: t.positions for name, t in deep.students.items() if t.positions is not None}
    check_students_hold(config, found.longest, positions)
    return deep


def _built_teacher(config: RunConfig, name: str, found: Checked) -> int:
    """A teacher's number of parameters, which its files fit."""
    from transformers import AutoConfig

    teacher, folder, where = config.teachers[name], found.teacher_folders[name], f"{config.teacher_key(name)}.model"
    try:
        own = AutoConfig.from_pretrained(folder, trust_remote_code=teacher.trust_remote_code)
        model = on_meta(own, trust_remote_code=teacher.trust_remote_code)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{where}: no model can be built of {teacher.model!r}: {why}") from error
    check_files(where, model, folder)
    return parameters(model)
