"""Which tasks of lm-evaluation-harness models are asked."""

from __future__ import annotations

from pydantic import Field, model_validator

from cluster.settings import Settings


class HarnessConfig(Settings):
    """Tasks of lm-evaluation-harness, with its prompts, its metrics and its rules. Needs `pip install
    'stillhouse[harness]'` wherever models are scored."""

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, groups or tags: those of YAML files below `include_path`, or those that come with
    lm-evaluation-harness, whose data sets lie on the Hugging Face Hub. One name is the grain in which answers are kept.
    """

    include_path: str | None = None
    """Folder of YAML tasks (relative to the configuration file), on every node that scores. Relative `data_files` of a
    task start there. Functions that a task names (`!function`) are run, here and where models are scored. Null: only
    the tasks that come with it."""

    limit: int | None = Field(default=None, ge=1)
    """Items of each task, at most: its first ones. Null: all."""

    fewshot: int | None = Field(default=None, ge=0)
    """Examples before each item, of tasks that do not fix them at 0. Null: as each task has it."""

    chat: bool = False
    """Whether items are asked in the teacher's chat template, with examples as turns."""

    metric: str | None = None
    """Metric that the report has of tasks that have it, such as `acc_norm` or `exact_match,strict-match` (with a
    filter). Null, and of other tasks: the first of each."""

    offline: bool = True
    """Whether the Hugging Face Hub is left alone: a task whose data set is neither local nor in the Hub's cache is
    refused. False: data sets are downloaded to where the tasks are checked and where models are scored."""

    @model_validator(mode="after")
    def _names_once(self) -> HarnessConfig:
        if twice := sorted({name for name in self.tasks if self.tasks.count(name) > 1}):
            raise ValueError(f"tasks: {', '.join(twice)} more than once; take the others out")
        return self
