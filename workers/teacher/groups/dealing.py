"""Dealing the texts of a call to ranks, so that all get equal work. Pure."""

from __future__ import annotations

from workers.teacher.engine import TextRequest


def deal(requests: list[TextRequest], ranks: int) -> list[list[int]]:
    """Places of the requests, by rank: the longest first, each to the rank that has the least.

    Samples of one prompt stay together, as a rank runs their prompt once; unless they are more than a rank's share.
    """
    cost = [
        len(r.prompt_token_ids) + (len(r.answer_token_ids) if r.answer_token_ids is not None else r.max_new_tokens)
        for r in requests
    ]
    together: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        together.setdefault(request.prompt_uid, []).append(i)
    items: list[list[int]] = []
    for places in together.values():
        whole = sum(cost[i] for i in places) <= sum(cost) / ranks
        items += [places] if whole else [[i] for i in places]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    work = [0] * ranks
    for item in sorted(items, key=lambda item: (-sum(cost[i] for i in item), item[0])):
        rank = min(range(ranks), key=lambda r: (work[r], r))
        shares[rank] += item
        work[rank] += sum(cost[i] for i in item)
    return [sorted(share) for share in shares]
