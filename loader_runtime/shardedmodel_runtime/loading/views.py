"""Tensors as views of an object's bytes: nothing is copied, nothing is converted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from operator import mul

import numpy as np
import torch

from shardedmodel_runtime.formats.dtypes import alignment
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.memory import collection_paused
from shardedmodel_runtime.sharding.cuts import LocalPiece

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
    manifest: Manifest, item: LayoutObject, memory: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Give the tensors of one object as views of its bytes.

    Args:
        manifest: tells the tensors, their dtypes and where they lie.
        item: the object, as the manifest describes it.
        memory: the object's bytes, header included: one-dimensional ``uint8``.

    Returns:
        Each tensor in its rank's shape. A tensor of a sub-byte dtype is its raw bytes, one-
        dimensional ``uint8``.
    """
    placement = manifest.placement(item)
    elements_of = _elements(memory)
    cuts = manifest.distinct_cuts
    widths, firsts = np.ones((2, len(cuts)), np.int64)
    forms: dict[int, _Form] = {}
    for kind, piece in placement.pieces.items():
        elements = elements_of(cuts[kind].dtype)
        widths[kind], firsts[kind] = elements.element_size(), elements.storage_offset()
        forms[kind] = _form_of(cuts[kind].dtype, piece, elements)
    kinds = placement.kinds
    offsets = firsts[kinds] + (item.data_start + placement.starts) // widths[kinds]
    columns = placement.numbers.tolist(), kinds.tolist(), offsets.tolist()
    views: dict[str, torch.Tensor] = {}
    with collection_paused():
        for number, kind, offset in zip(*columns, strict=True):
            make, shape, strides = forms[kind]
            views[manifest.names[number]] = make(shape, strides, offset)
    return views


_Form = tuple[Callable[..., torch.Tensor], tuple[int, ...], tuple[int, ...]]
"""What tensors that are cut alike share: what makes them of shape, strides and offset in elements;
shape and strides."""


def _elements(memory: torch.Tensor) -> Callable[[str], torch.Tensor]:
    """Give an object's memory as elements of a dtype, so that a tensor costs one call of torch's.

    Slicing, viewing and reshaping take six microseconds together, which is most of the time of a
    rank that holds a hundred thousand small tensors.
    """

    @cache
    def elements(dtype: str) -> torch.Tensor:
        if dtype not in TORCH_DTYPES:
            return memory
        width = alignment(dtype)
        return memory[: len(memory) // width * width].view(TORCH_DTYPES[dtype])

    return elements


def _form_of(dtype: str, piece: LocalPiece, elements: torch.Tensor) -> _Form:
    shape = piece.shape if dtype in TORCH_DTYPES else (piece.nbytes,)
    return elements.as_strided, shape, contiguous_strides(shape)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours in each dimension of a dense tensor, the last one first."""
    steps = accumulate((max(1, size) for size in reversed(shape[1:])), mul, initial=1)
    return tuple(steps)[::-1] if shape else ()
