"""The way back: from what ranks hold to the checkpoint's tensors, bit for bit.

Pure on the manifest: where the pieces' bytes come from, objects in a store or a rank's memory,
is the caller's. Along the way it is checked that pieces cover each tensor, that copies of the
same rows agree, and that padding is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.errors import ChecksumMismatch, LayoutError, excerpt
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS, tensor_bytes
from shardedmodel_runtime.layout.manifest import Manifest, ManifestTensor, PlacedTensor
from shardedmodel_runtime.storage.base import ObjectStore

Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class HeldPiece:
    """One rank's piece of a tensor: where it belongs, and its bytes."""

    rank: int
    place: PlacedTensor
    data: Buffer


def recombine_tensor(name: str, tensor: ManifestTensor, pieces: Sequence[HeldPiece]) -> bytearray:
    """Put one tensor together.

    Args:
        name: for messages.
        tensor: the whole tensor, as the manifest says.
        pieces: every rank's piece; of a replicated tensor, one or more copies.

    Returns:
        The tensor's bytes, row-major.

    Raises:
        LayoutError: pieces are missing, or their sizes do not fit.
        ChecksumMismatch: copies of the same bytes differ, or padding is not zero.
    """
    label = excerpt(name)
    if tensor.dim is None:
        return _one_of_equals(label, tensor, pieces)
    inner_bits = math.prod(tensor.shape[tensor.dim + 1 :]) * DTYPE_BITS[tensor.dtype]
    rows = math.prod(tensor.shape[: tensor.dim])
    length = tensor.shape[tensor.dim]
    whole = bytearray(tensor_bytes(tensor.dtype, tensor.shape))
    matrix = np.frombuffer(whole, np.uint8).reshape(rows, length * inner_bits // 8)
    canvas = _Canvas(label, matrix, length, inner_bits)
    for piece in pieces:
        canvas.place(piece)
    canvas.check_covered()
    return whole


def _one_of_equals(label: str, tensor: ManifestTensor, pieces: Sequence[HeldPiece]) -> bytearray:
    if not pieces:
        raise LayoutError(f"tensor {label!r}: nobody holds it")
    first = bytearray(pieces[0].data)
    if len(first) != tensor_bytes(tensor.dtype, tensor.shape):
        raise LayoutError(f"tensor {label!r}: its copy has {len(first)} bytes")
    for piece in pieces[1:]:
        if first != piece.data:
            raise ChecksumMismatch(
                f"tensor {label!r}: the copies of ranks {pieces[0].rank} and {piece.rank} differ"
            )
    return first


class _Canvas:
    """A tensor as rows of bytes, filled column range by column range."""

    def __init__(self, label: str, rows: Bytes, length: int, inner_bits: int) -> None:
        self._label = label
        self._rows = rows
        self._length = length
        self._inner_bits = inner_bits
        self._filled: list[tuple[int, int]] = []

    def place(self, piece: HeldPiece) -> None:
        """Fill in one piece; where rows are there already, compare."""
        width = self._bytes(sum(b - a for a, b in piece.place.ranges) + piece.place.pad)
        if len(piece.data) != len(self._rows) * width:
            raise LayoutError(
                f"tensor {self._label!r}: rank {piece.rank} holds {len(piece.data)} bytes, "
                f"{len(self._rows) * width} follow from its ranges"
            )
        data = np.frombuffer(piece.data, np.uint8).reshape(len(self._rows), width)
        position = 0
        for start, stop in piece.place.ranges:
            if not start <= stop <= self._length:
                raise LayoutError(
                    f"tensor {self._label!r}: rank {piece.rank} names rows [{start}, {stop}) of "
                    f"{self._length}"
                )
            columns = data[:, position : position + self._bytes(stop - start)]
            self._fill(piece.rank, start, stop, columns)
            position += columns.shape[1]
        if data[:, position:].any():
            raise ChecksumMismatch(f"tensor {self._label!r}: rank {piece.rank}'s pad is not zero")

    def check_covered(self) -> None:
        """See that every row came from somewhere."""
        position = 0
        for start, stop in sorted(self._filled):
            if start > position:
                break
            position = max(position, stop)
        if position < self._length:
            raise LayoutError(f"tensor {self._label!r}: nobody holds row {position}")

    def _fill(self, rank: int, start: int, stop: int, columns: Bytes) -> None:
        """Write what nobody has filled, compare the rest."""
        edges = {start, stop}
        edges.update(e for span in self._filled for e in span if start < e < stop)
        ordered = sorted(edges)
        for a, b in pairwise(ordered):
            here = columns[:, self._bytes(a - start) : self._bytes(b - start)]
            there = self._rows[:, self._bytes(a) : self._bytes(b)]
            if not any(first <= a and b <= last for first, last in self._filled):
                there[:] = here
            elif not np.array_equal(here, there):
                raise ChecksumMismatch(
                    f"tensor {self._label!r}: rank {rank}'s copy of rows [{a}, {b}) differs "
                    "from another's"
                )
        self._filled.append((start, stop))

    def _bytes(self, elements: int) -> int:
        return elements * self._inner_bits // 8


def recombine_ranks(
    manifest: Manifest, held: Mapping[int, Mapping[str, Buffer]]
) -> Iterator[tuple[str, bytearray]]:
    """Recombine what ranks hold in memory.

    Args:
        manifest: of the layout that the ranks loaded.
        held: for each rank, the bytes of each tensor's piece.

    Yields:
        Each tensor's name and bytes, in the source's order.

    Raises:
        LayoutError: a rank lacks a tensor, or pieces do not fit.
        ChecksumMismatch: copies differ.
    """
    places = {
        rank: {
            name: place
            for item in manifest.objects_of(rank)
            for name, place in item.tensors.items()
        }
        for rank in held
    }
    for name, tensor in manifest.tensors.items():
        pieces = []
        for rank in sorted(held):
            if name not in held[rank]:
                raise LayoutError(f"tensor {excerpt(name)!r}: rank {rank} does not hold it")
            pieces.append(HeldPiece(rank, places[rank][name], held[rank][name]))
        yield name, recombine_tensor(name, tensor, pieces)


def recombine_layout(
    manifest: Manifest, store: ObjectStore, digests: Mapping[str, str]
) -> Iterator[tuple[str, bytearray]]:
    """Recombine a layout from its store, one whole tensor in memory at a time.

    Args:
        manifest: of the layout.
        store: the layout's folder.
        digests: the state of each object that was verified.

    Yields:
        Each tensor's name and bytes, in the source's order.

    Raises:
        LayoutError: pieces do not fit together.
        SourceChanged: an object changed since it was verified.
    """
    places: dict[str, list[tuple[int, str, int, PlacedTensor]]] = {}
    for item in manifest.objects:
        for name, place in item.tensors.items():
            places.setdefault(name, []).append((item.ranks[0], item.key, item.data_start, place))
    for name, tensor in manifest.tensors.items():
        pieces = []
        for rank, key, data_start, place in places[name]:
            data = bytearray(place.nbytes)
            if data:
                start = data_start + place.start
                store.read_range(key, start, memoryview(data), digest=digests[key])
            pieces.append(HeldPiece(rank, place, data))
        yield name, recombine_tensor(name, tensor, pieces)
