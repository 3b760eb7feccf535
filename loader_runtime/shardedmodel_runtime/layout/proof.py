"""What must hold of a manifest before any of it is used, and the proof that a layout is complete.

Every rank gets a piece of every tensor that it needs, exactly once; the pieces cover each tensor;
and pieces of different ranks are disjoint but where heads are repeated. All of it follows from the
cuts, of which there are few, and from sets of tensors, so it takes a second or two for
90,000 tensors on 64 ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.errors import ConfigurationError, InvalidSafetensors, excerpt
from shardedmodel_runtime.formats.dtypes import CASTABLE, DTYPE_BITS, tensor_bytes
from shardedmodel_runtime.formats.safetensors import DATA_ALIGNMENT
from shardedmodel_runtime.layout.manifest_content import LayoutObject, ManifestContent
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, Range, TensorCut, cover
from shardedmodel_runtime.storage.base import is_plain_key

Kinds = npt.NDArray[np.int32]
"""The number of each tensor's cut, in the order of tensors."""
Edges = npt.NDArray[np.int64]
"""Where ranges of tensors begin and end: of shape (ranges, 2)."""

MAX_HOLDINGS = 2**28
"""Most ranks times tensors that are checked: 4,096 ranks of 65,536 tensors, in about a second."""
REPEATING_STRATEGIES = ("heads", "packed", "experts")
"""Strategies by which several ranks may hold the same rows: fewer key-value heads than ranks."""


def check_manifest(manifest: ManifestContent) -> None:
    """See that a manifest does not contradict itself and that its layout is complete.

    Raises:
        ValueError: it does, or is not; says where.
    """
    try:
        degrees = manifest.degrees
    except ConfigurationError as error:
        raise ValueError(error.message) from error
    for number, cut in enumerate(manifest.distinct_cuts):
        problems = list(cut_problems(cut, degrees))
        if problems:
            raise ValueError(f"cuts.{number} ({excerpt(cut.strategy)}): {problems[0]}")
    kinds = _checked_kinds(manifest)
    _check_keys([item.key for item in manifest.objects])
    _check_objects(manifest, kinds)
    _check_each_rank(manifest, kinds)


def cut_problems(cut: TensorCut, degrees: Parallelism) -> Iterator[str]:
    """Say what is wrong with one cut: it must cover the tensor, and repeat rows only for heads."""
    try:
        tensor_bytes(cut.dtype, cut.shape)
    except InvalidSafetensors as error:
        yield error.message
        return
    if cut.cast_from is not None and not {cut.cast_from, cut.dtype} <= CASTABLE:
        yield f"{excerpt(cut.cast_from)} is not cast to {cut.dtype}"
    if cut.stages is not None and not _are_ascending(cut.stages, degrees.pipeline):
        yield f"stages {list(cut.stages)} are not ascending stages of {degrees.pipeline}"
    if cut.expert is not None and not cut.expert < degrees.expert:
        yield f"expert rank {cut.expert} is not one of {degrees.expert}"
    if cut.expert is not None and cut.axis("expert"):
        yield "one expert rank holds it, and it is cut over all of them"
    if len({axis.over for axis in cut.axes}) < len(cut.axes):
        yield "two dimensions are cut over the same ranks"
    if len({axis.dim for axis in cut.axes}) < len(cut.axes):
        yield "one dimension is cut twice"
    for axis in cut.axes:
        yield from _axis_problems(cut, axis, getattr(degrees, axis.over))


def _axis_problems(cut: TensorCut, axis: AxisCut, degree: int) -> Iterator[str]:
    if axis.dim >= len(cut.shape):
        yield f"dimension {axis.dim} is not one of {len(cut.shape)}"
        return
    if axis.over == "expert" and (axis.dim or any(axis.pad)):
        yield "experts are cut along dimension 0, without pad"
    if len(axis.ranges) != degree or len(axis.pad) != degree:
        yield f"{len(axis.ranges)} ranges and {len(axis.pad)} pads are not {degree}, one per rank"
        return
    size = cut.shape[axis.dim]
    for rank, ranges in enumerate(axis.ranges):
        if any(start >= stop for start, stop in ranges) or any(
            before[1] > after[0] for before, after in pairwise(ranges)
        ):
            yield f"ranges of {axis.over} rank {rank} are not ascending"
        if ranges and ranges[-1][1] > size:
            yield f"ranges of {axis.over} rank {rank} end at {ranges[-1][1]} of {size}"
    every = sorted(span for ranges in axis.ranges for span in ranges)
    if cover(every) != [(0, size)][: size > 0]:
        yield f"its ranges do not cover dimension {axis.dim} of size {size}"
    repeats = any(before[1] > after[0] for before, after in pairwise(every))
    if repeats and cut.strategy not in REPEATING_STRATEGIES:
        yield f"ranges of different ranks overlap in dimension {axis.dim}"
    step_bits = prod(cut.shape[axis.dim + 1 :]) * DTYPE_BITS[cut.dtype]
    edges = {edge for span in every for edge in span} | set(axis.pad)
    if any(edge * step_bits % 8 for edge in edges):
        yield f"a range of dimension {axis.dim} begins or ends inside a byte"


def _checked_kinds(manifest: ManifestContent) -> Kinds:
    """See that each tensor is one and has a cut; gives the numbers of their cuts."""
    if len(set(manifest.names)) < len(manifest.names):
        raise ValueError("tensors: two have the same name")
    kinds = np.array([number for _, number in manifest.entries], np.int64)
    wrong = np.flatnonzero(kinds >= len(manifest.cuts))
    if len(wrong):
        name, number = manifest.entries[wrong[0]]
        raise ValueError(f"tensor {excerpt(name)!r} has cut {number} of {len(manifest.cuts)} cuts")
    return kinds.astype(np.int32)


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        if not is_plain_key(key):
            raise ValueError(f"key {excerpt(key)!r} leaves the layout")
    if len(set(keys)) != len(keys):
        raise ValueError("two objects have the same key")


def _check_objects(manifest: ManifestContent, kinds: Kinds) -> None:
    """Check each object by itself, as long as all together name no more than ranks can hold.

    A range is two numbers, whatever it spans: without the bound a small manifest would take hours.
    """
    ranks, tensors = manifest.world_size, len(kinds)
    if ranks * tensors > MAX_HOLDINGS:
        raise ValueError(f"{tensors} tensors on {ranks} ranks are too many")
    held = 0
    for item in manifest.objects:
        label = f"object {excerpt(item.key)!r}"
        _check_form(manifest, item, label)
        held += sum(stop - first for first, stop in item.tensors) * len(item.ranks)
        if held > ranks * tensors:
            raise ValueError(
                f"{label}: with it ranks hold {held} tensors, more than each of {tensors} once "
                f"on each of {ranks} ranks"
            )
        _check_size(manifest, item, kinds, label)


def _check_form(manifest: ManifestContent, item: LayoutObject, label: str) -> None:
    """Check what an object says, but not what is in it."""
    if not _are_ascending(item.ranks, manifest.world_size):
        raise ValueError(f"{label}: ranks are not ascending ranks of {manifest.world_size}")
    if not _are_ranges(item.tensors, len(manifest.entries)):
        raise ValueError(f"{label}: tensors are not ascending ranges of {len(manifest.entries)}")
    blocks = -(-item.bytes // manifest.block_bytes)
    if len(item.blocks) != blocks:
        raise ValueError(
            f"{label} of {item.bytes} bytes has {len(item.blocks)} block checksums, not {blocks}"
        )
    if item.data_start % DATA_ALIGNMENT or not item.data_start:
        raise ValueError(
            f"{label}: dataStart {item.data_start} is not a multiple of 4096, behind a header"
        )


def _check_size(manifest: ManifestContent, item: LayoutObject, kinds: Kinds, label: str) -> None:
    """See that an object is as long as the pieces in it."""
    own = np.concatenate([kinds[:0], *(kinds[first:stop] for first, stop in item.tensors)])
    end = item.data_start + _data_bytes(manifest, item, own, label)
    if end != item.bytes:
        raise ValueError(f"{label}: its tensors end at {end}, its bytes at {item.bytes}")


def _data_bytes(manifest: ManifestContent, item: LayoutObject, kinds: Kinds, label: str) -> int:
    """Bytes of an object's pieces, which have to be the same for all its ranks."""
    places = [manifest.degrees.coordinate(rank) for rank in item.ranks]
    differ = {
        "tensor": len({place.tensor for place in places}) > 1,
        "expert": len({place.expert for place in places}) > 1,
    }
    homes = {(place.pipeline, place.expert) for place in places}
    total = 0
    for number, count in zip(*np.unique(kinds, return_counts=True), strict=True):
        cut = manifest.distinct_cuts[number]
        for axis in cut.axes:
            if differ[axis.over]:
                raise ValueError(
                    f"{label}: its ranks share pieces that are cut over {axis.over} ranks"
                )
        if not all(cut.is_held_by(stage, expert) for stage, expert in homes):
            raise ValueError(f"{label}: it names ranks that do not hold its tensors")
        try:
            total += int(count) * cut.piece(places[0].tensor, places[0].expert).nbytes
        except InvalidSafetensors as error:
            raise ValueError(f"{label}: {error.message}") from error
    return total


def _check_each_rank(manifest: ManifestContent, kinds: Kinds) -> None:
    """See that every rank holds what the cuts say, once."""
    objects: list[list[Edges]] = [[] for _ in range(manifest.world_size)]
    for item in manifest.objects:
        edges = np.array(item.tensors, np.int64).reshape(-1, 2)
        for rank in item.ranks:
            objects[rank].append(edges)
    holders = _Holders(manifest.distinct_cuts)
    # The ranks of a stage and an expert rank stand side by side.
    for home, places in groupby(manifest.degrees.coordinates(), lambda p: (p.pipeline, p.expert)):
        needed = holders.needed_by(*home)[kinds]
        for place in places:
            counts = _counts(objects[place.rank], len(kinds))
            wrong = np.flatnonzero(counts != needed)
            if len(wrong):
                number = int(wrong[0])
                raise ValueError(
                    f"rank {place.rank} holds tensor {excerpt(manifest.names[number])!r} "
                    f"{counts[number]} times, not {int(needed[number])}"
                )


def _counts(objects: Sequence[Edges], size: int) -> npt.NDArray[np.int64]:
    """How often each of ``size`` tensors is in objects whose ranges are given."""
    edges = np.concatenate([np.empty((0, 2), np.int64), *objects])
    begun, ended = (np.bincount(edges[:, side], minlength=size + 1) for side in (0, 1))
    return np.cumsum(begun - ended)[:size]


class _Holders:
    """Which cuts the ranks of a stage and an expert rank hold a piece of, for all cuts at once.

    Args:
        cuts: by their number.
    """

    def __init__(self, cuts: Sequence[TensorCut]) -> None:
        self._everywhere = np.array([cut.stages is None for cut in cuts], bool)
        experts = (-1 if cut.expert is None else cut.expert for cut in cuts)
        self._expert = np.fromiter(experts, np.int64)
        self._of_stage: dict[int, list[int]] = {}
        for number, cut in enumerate(cuts):
            for stage in cut.stages or ():
                self._of_stage.setdefault(stage, []).append(number)

    def needed_by(self, stage: int, expert: int) -> npt.NDArray[np.bool_]:
        """For each cut, as ``TensorCut.is_held_by`` says it."""
        staged = self._everywhere.copy()
        staged[self._of_stage.get(stage, [])] = True
        here: npt.NDArray[np.bool_] = (self._expert == -1) | (self._expert == expert)
        return staged & here


def _are_ascending(numbers: Sequence[int], below: int) -> bool:
    return (
        bool(numbers)
        and numbers[-1] < below
        and all(before < after for before, after in pairwise(numbers))
    )


def _are_ranges(ranges: Sequence[Range], size: int) -> bool:
    edges = [edge for span in ranges for edge in span]
    return (
        (not ranges or ranges[-1][1] <= size)
        and all(before <= after for before, after in pairwise(edges))
        and all(first < stop for first, stop in ranges)
    )
