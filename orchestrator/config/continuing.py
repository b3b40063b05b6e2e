"""Where a run, or a generation of it, lies, and the one that it goes on from."""

from __future__ import annotations

from cluster.storage import join
from orchestrator.config.schema import RunConfig
from workers.layout import export_key, generation_uri

SPECIALIST = "specialist:"
"""How the name of a model begins that is a specialist of the older generation."""


def run_uri(config: RunConfig) -> str:
    """The folder of a run, or of one of its generations. Raises ValueError where it is not said which."""
    run = join(config.storage, config.name)
    if config.continues is None:
        return run
    match config.continues.generation:
        case None:
            raise ValueError(
                "continues.generation: not given; type `stillhouse run CONFIG --continue`, which takes the run's last "
                "generation, or say its number (1 is the run as it was first made)"
            )
        case int(number):
            return generation_uri(run, number + 1)
        case str():
            return run


def older_uri(config: RunConfig) -> str | None:
    """The folder of the generation that a run goes on from; None where it goes on from none, or from the last one."""
    generation = config.continues.generation if config.continues is not None else None
    return generation_uri(join(config.storage, config.name), generation) if isinstance(generation, int) else generation


def former_self(config: RunConfig, where: str, model: str) -> str:
    """A teacher's model, where that is `specialist:NAME`: its exported folder, which has a tokenizer, in the older
    generation. Raises ValueError where there is none."""
    if not model.startswith(SPECIALIST):
        return model
    if config.continues is None:
        raise ValueError(
            f"{where}.model: {model!r} is a specialist of an older generation, and this run goes on from none; type "
            "`stillhouse run CONFIG --continue`, or give continues"
        )
    older = older_uri(config)
    return model if older is None else join(older, export_key(model.removeprefix(SPECIALIST)))
