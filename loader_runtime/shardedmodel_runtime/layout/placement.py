"""Where the pieces of an object lie: a rule that writers and readers share.

An object is a set of tensors at one place (a tensor rank and an expert rank). The order of its
pieces, and from their sizes where each begins, follow from the set; so neither plans nor manifests
have to list 700,000 pieces where a large model has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.formats.dtypes import alignment
from shardedmodel_runtime.sharding.cuts import LocalPiece, Range, TensorCut

Numbers = npt.NDArray[np.int64]
"""Numbers of tensors in the checkpoint, or of cuts, or of bytes; one-dimensional."""


class PlacedTensor(NamedTuple):
    """One tensor's piece in an object.

    A tuple, because objects of large models hold hundreds of thousands of them.

    Args:
        name: of the tensor.
        cut: how the whole tensor is cut.
        piece: what lies here of it.
        start: its first byte, relative to the object's data section.
    """

    name: str
    cut: TensorCut
    piece: LocalPiece
    start: int

    @property
    def end(self) -> int:
        """One past its last byte, relative to the object's data section."""
        return self.start + self.piece.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the piece."""
        return self.piece.nbytes


def writing_order(cuts: Mapping[str, TensorCut]) -> list[str]:
    """Order tensors as they lie in every object: by falling alignment, then as they came."""
    names = list(cuts)
    widths = {dtype: alignment(dtype) for dtype in {cut.dtype for cut in cuts.values()}}
    return [names[n] for n in _by_falling([widths[cut.dtype] for cut in cuts.values()])]


def _by_falling(widths: Sequence[int] | Numbers) -> Numbers:
    """The places of ``widths`` in the order of bytes: the widest first, equal ones as they came."""
    return np.argsort(-np.asarray(widths, np.int64), kind="stable")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pieces of an object lie, in the order of bytes.

    Columns, because objects of large models hold hundreds of thousands of pieces.

    Args:
        numbers: of the tensors in the checkpoint.
        kinds: the number of each one's cut.
        starts: the first byte of each, relative to the object's data section.
        pieces: what lies here of a tensor that is cut so, by the number of the cut.
    """

    numbers: Numbers
    kinds: Numbers
    starts: Numbers
    pieces: Mapping[int, LocalPiece]


def lay(
    numbers: Numbers, kinds: Numbers, cuts: Sequence[TensorCut], tensor: int, expert: int
) -> Placement:
    """Lay the pieces of one place one after the other, in the order of bytes.

    Args:
        numbers: of the tensors in the checkpoint, ascending.
        kinds: the number of each one's cut.
        cuts: by their numbers.
        tensor: the tensor rank whose pieces they are.
        expert: the expert rank.
    """
    # Counting, not np.unique: that imports numpy.ma, most of the time of a load of 100 MB.
    present = np.flatnonzero(np.bincount(kinds, minlength=len(cuts))).tolist()
    pieces = {kind: cuts[kind].piece(tensor, expert) for kind in present}
    widths, sizes = np.zeros((2, len(cuts)), np.int64)
    for kind, piece in pieces.items():
        widths[kind], sizes[kind] = alignment(cuts[kind].dtype), piece.nbytes
    order = _by_falling(widths[kinds])
    ends = np.cumsum(sizes[kinds[order]])
    return Placement(numbers[order], kinds[order], ends - sizes[kinds[order]], pieces)


class PieceCache:
    """The pieces of one place, by cut: tensors that are cut alike have equal pieces.

    Args:
        tensor: the tensor rank.
        expert: the expert rank.
    """

    def __init__(self, tensor: int, expert: int) -> None:
        self._place = (tensor, expert)
        self._known: dict[int, tuple[TensorCut, LocalPiece]] = {}

    def __call__(self, cut: TensorCut) -> LocalPiece:
        """The piece that the place holds of a tensor cut so."""
        # By identity, for comparing two cuts compares all their ranges; the cut is kept alive.
        known = self._known.get(id(cut))
        if known is None:
            known = self._known[id(cut)] = (cut, cut.piece(*self._place))
        return known[1]


def place_tensors(
    tensors: Iterable[tuple[str, TensorCut]], tensor: int, expert: int
) -> Iterator[PlacedTensor]:
    """Lay the pieces of one place one after the other.

    Args:
        tensors: name and cut of each, in the order of bytes.
        tensor: the tensor rank whose pieces they are.
        expert: the expert rank.
    """
    piece_of = PieceCache(tensor, expert)
    position = 0
    for name, cut in tensors:
        piece = piece_of(cut)
        yield PlacedTensor(name, cut, piece, position)
        position += piece.nbytes


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """Numbers as ascending ranges of neighbours."""
    ranges: list[Range] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges


def numbers_in(ranges: Sequence[Range]) -> Numbers:
    """The numbers in ranges, ascending."""
    parts = [np.arange(first, stop, dtype=np.int64) for first, stop in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
