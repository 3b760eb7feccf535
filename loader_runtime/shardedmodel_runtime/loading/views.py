"""Tensors as views of an object's bytes: nothing is copied, nothing is converted."""

from __future__ import annotations

import torch

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
    views: dict[str, torch.Tensor] = {}
    for placed in manifest.placed(item):
        data = arena[item.data_start + placed.start : item.data_start + placed.end]
        dtype = TORCH_DTYPES.get(placed.cut.dtype)
        views[placed.name] = data if dtype is None else data.view(dtype).reshape(placed.piece.shape)
    return views
