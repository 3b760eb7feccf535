"""Which objects are written together, and by which worker: pure decisions before a byte is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from shardedmodel_runtime.layout.objects import PlannedObject


def passes(
    objects: Sequence[PlannedObject], order: Mapping[str, int], at_once: int
) -> list[tuple[PlannedObject, ...]]:
    """Group objects into passes over the source, in each of which few are open at a time.

    An object is open from its first tensor to its last. One pass is enough until more than
    ``at_once`` objects would be open; of what goes into a further pass, tensors that are cut
    along their first dimension are still read once, others once for each pass.

    Args:
        objects: what to write.
        order: each tensor's place in the order of writing.
        at_once: how many objects may be open.
    """
    groups: list[list[PlannedObject]] = []
    open_ends: list[list[int]] = []
    for planned in sorted(objects, key=lambda item: _span(item, order)[0]):
        first, last = _span(planned, order)
        for group, ends in zip(groups, open_ends, strict=True):
            while ends and ends[0] < first:
                heappop(ends)
            if len(ends) < at_once:
                group.append(planned)
                heappush(ends, last)
                break
        else:
            groups.append([planned])
            open_ends.append([last])
    return [tuple(group) for group in groups]


def most_open(objects: Sequence[PlannedObject], order: Mapping[str, int]) -> int:
    """How many of ``objects`` are open at once, at most, in one pass."""
    ends: list[int] = []
    most = 0
    for first, last in sorted(_span(planned, order) for planned in objects):
        while ends and ends[0] < first:
            heappop(ends)
        heappush(ends, last)
        most = max(most, len(ends))
    return most


def objects_of_worker(
    objects: Sequence[PlannedObject], order: Mapping[str, int], worker: int, workers: int
) -> list[PlannedObject]:
    """Give one worker's objects: about equal bytes for each, and no tensor for two of them.

    Objects that share a tensor stay together, so all workers together read the source once. With
    more workers than such groups, some have nothing to do.

    Args:
        objects: all objects of the layout.
        order: each tensor's place in the order of writing.
        worker: which one, from 0.
        workers: how many there are.
    """
    groups = sorted(_sharing(objects), key=lambda group: min(_span(o, order)[0] for o in group))
    total = sum(planned.size for planned in objects)
    share: list[PlannedObject] = []
    start = 0
    for group in groups:
        size = sum(planned.size for planned in group)
        if (2 * start + size) * workers // (2 * total) == worker:
            share += group
        start += size
    return share


def _span(planned: PlannedObject, order: Mapping[str, int]) -> tuple[int, int]:
    return order[planned.names[0]], order[planned.names[-1]]


def _sharing(objects: Sequence[PlannedObject]) -> list[list[PlannedObject]]:
    """Group objects so that no tensor has pieces in two groups."""
    leader = list(range(len(objects)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    holder: dict[str, int] = {}
    for number, planned in enumerate(objects):
        for name in planned.names:
            leader[find(number)] = find(holder.setdefault(name, number))
    groups: dict[int, list[PlannedObject]] = {}
    for number, planned in enumerate(objects):
        groups.setdefault(find(number), []).append(planned)
    return list(groups.values())
