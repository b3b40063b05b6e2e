"""Rows of a dataset on the Hugging Face Hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.prompts.reading.files import SKIPPED_ROW, Row
from orchestrator.prompts.reading.sample import EvenSample
from orchestrator.prompts.reading.tables import without_nulls


def hub_rows(dataset: str, config: str | None, split: str, sample: EvenSample) -> Iterator[Row]:
    """The rows of a dataset; SKIPPED_ROW for those that the sample leaves out. Raises ValueError if it is not within
    reach, or has no such split."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{dataset!r} is no file; to read it as a Hugging Face dataset: pip install 'stillhouse[hub]'"
        ) from error
    try:
        data: Any = datasets.load_dataset(dataset, config, split=split, streaming=True)
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"{dataset!r} is neither a file nor a Hugging Face dataset within reach ({type(error).__name__})"
        ) from error
    except ValueError as error:  # the dataset is there; the library says which splits and configurations it has
        part = f"split {split!r} of configuration {config or 'default'!r}"
        raise ValueError(f"the dataset {dataset!r} has no {part}: {' '.join(str(error).split())}") from error
    return (
        Row(without_nulls(value), "", number) if sample.wants() else SKIPPED_ROW for number, value in enumerate(data)
    )
