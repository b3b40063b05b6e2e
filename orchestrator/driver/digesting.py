"""Digests of the logs, made beside a capture: how many entries a later start asks for one by one is bounded by them."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.runs.context import RunContext
from workers.targets.commits.digests import ROWS
from workers.targets.store import TargetStore


class Digesting:
    """Makes a digest of what was captured since the last one, in the background: after every full one, and at the end.

    Students and teachers do not wait for it, and the log is whole without it.
    """

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._captured: Counter[str] = Counter()
        self._stores: dict[str, TargetStore] = {}
        """Each knows what the digests hold that it saw before."""
        self._work: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digest")

    def note(self, split: str) -> None:
        """A unit was captured."""
        self._captured[split] += 1

    def poll(self, *, over: bool) -> bool:
        """Begin what is due; `over`: nothing more will be captured. Whether nothing is under way or due any more.

        Raises what the background met, but for failures of the storage, which are said: a start then asks for more.
        """
        if self._work is not None:
            if not self._work.done():
                return False
            self._finish(self._work)
        due = [split for split, units in self._captured.items() if units >= (1 if over else ROWS)]
        if due:
            del self._captured[due[0]]
            self._work = self._pool.submit(self._digest, due[0])
        return not due

    def _digest(self, split: str) -> None:
        store = self._stores.setdefault(split, TargetStore(self._ctx.run.storage, split))
        store.log.digest()

    def _finish(self, work: Future[None]) -> None:
        self._work = None
        try:
            work.result()
        except OSError as error:
            self._ctx.say(f"no digest of the log was made ({error}); the next start reads these entries one by one")
