"""The dtypes of the safetensors format, by name and bits (safetensors 0.8, ``Dtype``)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from shardedmodel_runtime.errors import InvalidSafetensors, excerpt

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element."""

CASTABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""Floating-point dtypes that stand for themselves; FP8 and smaller ones need the scales beside them
and are never cast."""

CASTS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""What tensors may be cast to, by the name that torch and users have for it."""

MAX_OFFSET = 2**63 - 1
"""Sizes beyond a signed 64-bit offset cannot lie in any file; products are refused there."""


def alignment(dtype: str) -> int:
    """Bytes that an element of ``dtype`` is naturally aligned to; 1 for sub-byte elements."""
    return max(1, DTYPE_BITS[dtype] // 8)


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; empty and zero-rank shapes are legal.

    Raises:
        InvalidSafetensors: the dtype is unknown, a dimension is negative, the elements do not
            fill whole bytes, or the size does not fit a signed 64-bit offset.
    """
    if dtype not in DTYPE_BITS:
        raise InvalidSafetensors(f"dtype {excerpt(dtype)!r} is not one of safetensors' dtypes")
    width = DTYPE_BITS[dtype]
    if shape and min(shape) < 0:
        raise InvalidSafetensors(f"shape {_shown(shape)} has a negative dimension")
    # An empty dimension does not excuse the others: strides are products of them.
    if prod([dimension or 1 for dimension in shape]) * width // 8 > MAX_OFFSET:
        raise InvalidSafetensors(f"shape {_shown(shape)} of {dtype} overflows 64-bit offsets")
    size, rest = divmod(prod(shape) * width, 8)
    if rest:
        raise InvalidSafetensors(
            f"{dtype} elements of shape {_shown(shape)} do not fill whole bytes"
        )
    return size


def _shown(shape: Sequence[int]) -> str:
    return excerpt(str(list(shape)))
