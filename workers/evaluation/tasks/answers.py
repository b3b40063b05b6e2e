"""What models answered, as files: JSON of TaskAnswer, in the order of the items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from workers.evaluation.tasks.items import TaskAnswer


def answers_to_bytes(answers: Sequence[TaskAnswer]) -> bytes:
    """Answers as they are kept."""
    return json.dumps([asdict(answer) for answer in answers]).encode()


def answers_from_bytes(data: bytes) -> list[TaskAnswer]:
    """From what `answers_to_bytes` gave."""
    return [TaskAnswer(**values | {"logprobs": tuple(values["logprobs"])}) for values in json.loads(data)]
