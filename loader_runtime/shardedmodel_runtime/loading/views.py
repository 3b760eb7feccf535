"""Tensors as views of an object's bytes: nothing is copied, nothing is converted."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from operator import mul

import torch

from shardedmodel_runtime.formats.dtypes import alignment
from shardedmodel_runtime.layout.manifest import LayoutObject, Manifest

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""safetensors' dtypes that torch has, element for element. The sub-byte ones (F4, F6_E2M3,
F6_E3M2) are missing: torch packs such elements in its own way or not at all."""


def tensor_views(
    manifest: Manifest, item: LayoutObject, arena: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Give the tensors of one object as views of its bytes.

    Args:
        manifest: tells the tensors, their dtypes and where they lie.
        item: the object, as the manifest describes it.
        arena: the object's bytes, header included: one-dimensional ``uint8``.

    Returns:
        Each tensor in its rank's shape. A tensor of a sub-byte dtype is its raw bytes, one-
        dimensional ``uint8``.
    """
    typed = _TypedArena(arena)
    return {
        placed.name: typed.view(
            placed.cut.dtype, placed.piece.shape, item.data_start + placed.start, placed.nbytes
        )
        for placed in manifest.placed(item)
    }


class _TypedArena:
    """An arena as elements of every dtype, so that a tensor costs one call of torch's.

    Slicing, viewing and reshaping take six microseconds together, which is most of the time of a
    rank that holds a hundred thousand small tensors.
    """

    def __init__(self, arena: torch.Tensor) -> None:
        self._arena = arena
        self._elements: dict[str, tuple[torch.Tensor, int]] = {}

    def view(self, dtype: str, shape: tuple[int, ...], start: int, nbytes: int) -> torch.Tensor:
        """Give the tensor whose first byte is ``start``; raw bytes of a dtype not torch's."""
        if dtype not in TORCH_DTYPES:
            return self._arena[start : start + nbytes]
        elements, width = self._elements_of(dtype)
        offset = elements.storage_offset() + start // width
        return elements.as_strided(shape, contiguous_strides(shape), offset)

    def _elements_of(self, dtype: str) -> tuple[torch.Tensor, int]:
        found = self._elements.get(dtype)
        if found is None:
            width = alignment(dtype)
            whole = self._arena[: len(self._arena) // width * width]
            found = self._elements[dtype] = whole.view(TORCH_DTYPES[dtype]), width
        return found


@lru_cache(maxsize=4096)
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours in each dimension of a dense tensor, the last one first."""
    steps = accumulate((max(1, size) for size in reversed(shape[1:])), mul, initial=1)
    return tuple(steps)[::-1] if shape else ()
