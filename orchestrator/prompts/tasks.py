"""Reading tasks: rows as items, each usable or rejected with its reason, and the token ids that models are asked by.
Imports neither transformers nor torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.schema import DomainConfig, RunConfig
from orchestrator.prompts.lengths import positions_by_settings
from orchestrator.prompts.policy import PromptPolicy
from orchestrator.prompts.reading.files import data_files, rows_of
from orchestrator.prompts.sources import RawPrompt, RejectedRow, commonest, repeated_id
from orchestrator.prompts.tokenizing import TeacherTokenizer
from workers.chat_template import read_chat_template, usual_template
from workers.evaluation.config import NO_CODE
from workers.evaluation.harness.asked import HarnessTask
from workers.evaluation.tasks.asked import AskedItems, TokenizedItem, in_units
from workers.evaluation.tasks.config import TaskConfig
from workers.evaluation.tasks.formats import TextFormat, check_schema
from workers.evaluation.tasks.items import CHANGES_ANSWER, WRITTEN, Edit, TaskItem
from workers.evaluation.tasks.rows import counterfactual_of, item_of, template_row
from workers.evaluation.variants.edits import EditSources, Variants, variants_of
from workers.evaluation.variants.templates import SLOT_EDITS, TaskTemplate
from workers.evaluation.variants.terms import checked_terms
from workers.splits import TRAIN


@dataclass(frozen=True)
class ReadTask:
    """The rows of a task."""

    name: str
    units: list[AskedItems]
    rejected: list[RejectedRow]
    skipped: Counter[tuple[Edit, str]] = field(default_factory=Counter)
    """By edit and reason, how many items it could not be done to."""

    @property
    def items(self) -> list[TaskItem]:
        """Those that can be asked."""
        return [asked.item for unit in self.units for asked in unit.items]


def read_tasks(config: RunConfig, folders: dict[str, Path]) -> list[ReadTask]:
    """All tasks of a configuration (with absolute paths); `folders` are the teachers'. Raises ValueError, naming the
    task, for one that cannot be read or of which no row can be asked."""
    if not config.evaluate.tasks:
        return []
    _check_chat(config, folders)
    tokenizer = ItemTokenizer(config, folders)
    tasks = [_read_task(config, name, tokenizer) for name in config.evaluate.tasks]
    if config.evaluate.bridges is not None and not written_items(tasks):
        raise ValueError(
            "evaluate.bridges: are tokens of answers that are written and marked, and no item of evaluate.tasks is "
            f"marked by {', '.join(WRITTEN)}; give such a task, or leave bridges out"
        )
    return tasks


def written_items(tasks: Sequence[ReadTask]) -> Counter[str]:
    """Given items that are answered by writing, by domain."""
    given = [item for task in tasks for item in task.items if item.variant_of is None]
    return Counter(item.domain for item in given if item.marking in WRITTEN)


def _read_task(config: RunConfig, name: str, tokenizer: ItemTokenizer) -> ReadTask:
    settings, key = config.evaluate.tasks[name], f"evaluate.tasks.{name}"
    try:
        items, rejected, skipped = read_items(name, settings, config.seed)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if not config.evaluate.run_code and any(item.marking == "tests" for item in items):
        raise ValueError(f"{key}: {NO_CODE}")
    asked: list[TokenizedItem] = []
    for item in items:
        try:
            asked.append(tokenizer.tokenized(item, settings))
        except ValueError as error:
            rejected.append(RejectedRow(name, -1, item.uid, str(error)))
    if not asked:
        why = f"{len(rejected)} rejected; {commonest(rejected)}" if rejected else "it is empty"
        raise ValueError(
            f"{key}: no row of {settings.path!r} can be asked ({why}); give lines of {{prompt, choices, answer}}, "
            "{prompt, answer} or {prompt, tests}, or {prompt} and a format, each with its domain"
        )
    how = {
        "normalise": settings.normalise,
        "max_new_tokens": settings.max_new_tokens,
        "stop": tuple(settings.stop),
        "format": _format(key, settings, asked),
    }
    asked = _with_originals(asked)
    return ReadTask(name, in_units(asked, **how), rejected, skipped)


def _format(key: str, settings: TaskConfig, asked: Sequence[TokenizedItem]) -> TextFormat | None:
    """What is to be written, its schema read. Raises ValueError where that is none, or nothing is written."""
    form = settings.format
    if form is None:
        return None
    schema = form.json_schema
    if isinstance(schema, str):
        try:
            schema = json.loads(Path(schema).read_bytes())
            check_schema(schema)
        except OSError as error:
            why = f"cannot read {form.json_schema!r}: {error.strerror}"
            raise ValueError(f"{key}.format.json_schema: {why}") from None
        except ValueError as error:
            raise ValueError(f"{key}.format.json_schema: {form.json_schema!r}: {error}") from None
    if all(one.item.marking == "choice" for one in asked):
        raise ValueError(f"{key}.format: is of texts that are written, and all rows have choices; leave it out")
    return TextFormat(form.regex, schema)


def _with_originals(asked: list[TokenizedItem]) -> list[TokenizedItem]:
    """Without the variants of items that cannot be asked."""
    there = {one.item.uid for one in asked}
    return [one for one in asked if one.item.variant_of is None or one.item.variant_of in there]


def _check_chat(config: RunConfig, folders: dict[str, Path]) -> None:
    """Raise ValueError for a task that is to be asked as a chat where a teacher has no chat template."""
    for name, task in config.evaluate.tasks.items():
        lacking = [t for t, folder in folders.items() if not usual_template(read_chat_template(folder))]
        if task.chat and lacking:
            raise ValueError(
                f"evaluate.tasks.{name}.chat: the tokenizer of {config.teachers[lacking[0]].model!r} has no chat "
                "template; leave chat out, to ask with text that is continued"
            )


def check_task_chat(config: RunConfig, folders: dict[str, Path]) -> None:
    """Raise ValueError if tasks of lm-evaluation-harness are to be asked as chats, which the run's tokenizer, the first
    teacher's, has no template for."""
    settings, first = config.evaluate.harness, config.first_teacher()
    if settings is not None and settings.chat and not usual_template(read_chat_template(folders[first])):
        raise ValueError(
            f"evaluate.harness.chat: the tokenizer of {config.teachers[first].model!r} has no chat template; leave "
            "chat out, to ask with text that is continued"
        )


def harness_note(tasks: Sequence[HarnessTask]) -> str:
    """How much tasks of lm-evaluation-harness ask."""
    items = {name: count for task in tasks for name, count in task.items.items()}
    return (
        f"evaluate.harness: {sum(items.values()):,} items of {len(items):,} tasks for each model that is scored, and "
        "for the teacher, which is loaded whole for it"
    )


def read_items(
    name: str, settings: TaskConfig, seed: int = 0
) -> tuple[list[TaskItem], list[RejectedRow], Counter[tuple[Edit, str]]]:
    """The items of a task's file and their variants, the rows that are none, and how often an edit could not be done.

    Raises ValueError for a file that cannot be read, and edits that need what is not there.
    """
    try:
        files = data_files(settings.path, TRAIN)
    except OSError as error:
        raise ValueError(f"cannot read {settings.path!r}: {error.strerror or error}") from None
    if files is None:
        raise ValueError(f"no such file {settings.path!r}")
    items: dict[str, TaskItem] = {}
    swapped: list[TaskItem] = []
    templates: list[TaskTemplate] = []
    rejected: list[RejectedRow] = []
    for number, row in enumerate(rows_of(files)):
        if number == settings.limit:
            break
        try:
            template = template_row(row.value, name, settings)
            item = item_of(row.value, name, settings) if template is None else template.item(seed)
            if item.uid in items:
                raise ValueError(repeated_id(item.uid))
            other = counterfactual_of(row.value, item) if template is None else None
        except ValueError as error:
            rejected.append(RejectedRow(name, row.number, None, str(error), row.file))
            continue
        items[item.uid] = item
        swapped += [other] if other is not None else []
        templates += [template] if template is not None else []
    variants = _variants(list(items.values()), templates, settings, seed)
    there = {item.uid for item in swapped}  # a row's own is better than what a table makes
    made = [item for item in variants.items if item.uid not in there]
    return [*items.values(), *swapped, *made], rejected, variants.skipped


def _variants(
    items: Sequence[TaskItem], templates: Sequence[TaskTemplate], settings: TaskConfig, seed: int
) -> Variants:
    """Those that the task's edits make. Raises ValueError where they need what is not there."""
    made = Variants()
    if changing := [edit for edit in settings.edits if edit in SLOT_EDITS]:
        if not templates and set(changing) - {"names"}:
            raise ValueError(f"edits: {', '.join(changing)} are made of rows with a `template`, and there is none")
        for template in templates:
            made.add(template.variants(seed, changing, settings.variants))
    filled = {template.uid for template in templates}
    plain = [edit for edit in settings.edits if edit not in CHANGES_ANSWER and (edit != "names" or settings.names)]
    if "names" in settings.edits and not settings.names and not templates:
        raise ValueError("edits: `names` needs `names`, a table of terms and what may stand in their place")
    sources = EditSources(names=checked_terms(settings.names, "names"))
    for edit in plain:
        some = [item for item in items if edit != "names" or item.uid not in filled]
        made.add(variants_of(some, [edit], seed, sources))
    return made


class ItemTokenizer:
    """Writes items as their domain's teacher reads them."""

    def __init__(self, config: RunConfig, folders: dict[str, Path]) -> None:
        self._config, self._folders = config, folders
        self._tokenizers: dict[str, TeacherTokenizer] = {}
        self._held = {f"specialists.{name}": p.held for name, p in positions_by_settings(config).items()}

    def tokenized(self, item: TaskItem, settings: TaskConfig) -> TokenizedItem:
        """An item with its token ids. Raises ValueError with the reason to reject it."""
        teacher = self._config.teacher_of(item.domain)
        tokenizer = self._tokenizer(teacher)
        prompt = self._ids(tokenizer, teacher, item, item.prompt, chat=settings.chat)
        choices: tuple[tuple[int, ...], ...] = ()
        if item.marking == "choice" and settings.chat:
            choices = tuple(tuple(tokenizer.ids(choice, special=False)) for choice in item.choices)
        elif item.marking == "choice":
            texts = [_joined(item.prompt, choice, settings.delimiter) for choice in item.choices]
            wholes = [self._ids(tokenizer, teacher, item, text, chat=False) for text in texts]
            # A token may span the border; what all have in common is the prompt.
            prompt = _common_prefix([prompt, *wholes])
            choices = tuple(tuple(whole[len(prompt) :]) for whole in wholes)
        if not prompt or not all(choices):
            raise ValueError("has no tokens" if not prompt else "has a choice of no tokens")
        longest = max(map(len, choices)) if choices else settings.max_new_tokens
        self._check_length(len(prompt) + longest, {"the teacher": tokenizer.longest, **self._held})
        return TokenizedItem(item, tuple(prompt), choices)

    def _ids(self, tokenizer: TeacherTokenizer, teacher: str, item: TaskItem, text: str, *, chat: bool) -> list[int]:
        domain = self._config.domains.get(item.domain, DomainConfig())
        how = PromptPolicy(
            teacher,
            self._config.teachers[teacher].sampling,
            (domain.system_prompt or None) if chat else None,
            json.dumps(domain.chat_template_kwargs, sort_keys=True),
        )
        messages = [{"role": "user", "content": text}] if chat else None
        row = RawPrompt(item.uid, item.task, (item.domain,), None, None if chat else text, messages, None)
        [found] = tokenizer.prompts([(row, how)])
        if isinstance(found, ValueError):
            raise found
        return found.prompt_token_ids

    def _check_length(self, tokens: int, held: dict[str, int]) -> None:
        least = min(held, key=lambda name: held[name])
        if tokens > held[least]:
            raise ValueError(f"is longer than the {held[least]} tokens that {least} holds, with its longest answer")

    def _tokenizer(self, teacher: str) -> TeacherTokenizer:
        if teacher not in self._tokenizers:
            self._tokenizers[teacher] = TeacherTokenizer.of_files(
                self._config.teachers[teacher], self._folders[teacher]
            )
        return self._tokenizers[teacher]


def _common_prefix(texts: Sequence[list[int]]) -> list[int]:
    """What all lists begin with."""
    length = 0
    for ids in zip(*texts, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return texts[0][:length]


def _joined(prompt: str, choice: str, delimiter: str) -> str:
    """A text with a choice behind it."""
    apart = not (prompt[-1:].isspace() or choice[:1].isspace())
    return f"{prompt}{delimiter if apart else ''}{choice}"
