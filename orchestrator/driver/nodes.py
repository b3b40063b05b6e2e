"""What a run notes of its cluster's nodes while it works, and says of those that come and leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cluster.nodes.members import Changes, Member, MemberWatch
from orchestrator.runs.context import RunContext
from workers.channels.events import NodeJoined, NodeLeft


class Nodes:
    """Tells a run's events which nodes there are."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx, self._watch = ctx, MemberWatch()
        self._known = False
        """Whether the nodes that the run began with are told."""

    def note(self, *, now: bool = False) -> None:
        """Tell what changed since the last look, if it is time for one, or it is to be `now`."""
        changes = self._watch.look(now=now)
        for node in changes.joined:
            self._ctx.report(
                NodeJoined(
                    node=node.id,
                    role=node.role,
                    joined=node.joined,
                    address=node.address,
                    labels=dict(node.labels),
                    resources=dict(node.resources),
                )
            )
        for node in changes.left:
            self._ctx.report(NodeLeft(node=node.id, left=node.left or 0.0, reason=node.reason))
        if self._known and (changes.joined or changes.left):
            self._ctx.say(_said(changes, self._watch.here))
        self._known = self._known or bool(changes.joined)


def _said(changes: Changes, here: Sequence[Member]) -> str:
    words = [f"{_counted(changes.joined)} joined"] if changes.joined else []
    if changes.left:
        reasons = sorted({node.reason for node in changes.left if node.reason})
        words.append(f"{_counted(changes.left)} left" + (f" ({'; '.join(reasons[:2])})" if reasons else ""))
    return f"nodes: {', '.join(words)}; now {_counted(here)}"


def _counted(nodes: Sequence[Member]) -> str:
    """How many of which role."""
    return ", ".join(f"{number} {role}" for role, number in sorted(Counter(node.role for node in nodes).items()))
