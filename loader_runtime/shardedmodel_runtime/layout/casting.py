"""Casts the bytes of floating-point tensors, rounding to nearest and ties to even (IEEE 754).

numpy rounds so between the dtypes that it has. It has no bfloat16, which is the upper half of a
float32: bit arithmetic does it. Infinities stay, NaN stay NaN, what is too large becomes infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.formats.dtypes import DTYPE_BITS

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
"""Those of the castable dtypes that numpy has."""
QUIET_NAN_BIT = 0x0040
"""Set in every bfloat16 NaN: cutting the lower half off could leave a NaN without a fraction, which
would be an infinity."""


@dataclass(frozen=True, slots=True)
class Cast:
    """One cast.

    Args:
        source: dtype of the bytes that come.
        target: dtype of the bytes that go.
    """

    source: str
    target: str

    @property
    def source_bytes(self) -> int:
        """Bytes of an element before."""
        return DTYPE_BITS[self.source] // 8

    @property
    def target_bytes(self) -> int:
        """Bytes of an element after."""
        return DTYPE_BITS[self.target] // 8

    def __call__(self, data: memoryview) -> memoryview:
        """Cast whole elements.

        Args:
            data: little-endian elements of ``source``, C-contiguous.

        Returns:
            As many elements of ``target``, in memory of their own.
        """
        # numpy warns of what IEEE 754 defines: overflow to infinity, and NaN made quiet.
        with np.errstate(all="ignore"):
            cast = _to_target(np.frombuffer(data, np.uint8), self.source, self.target)
        return cast.view(np.uint8).data


def _to_target(data: Array, source: str, target: str) -> Array:
    if source == "BF16":
        values: Array = (data.view("<u2").astype(np.uint32) << 16).view("<f4")
    else:
        values = data.view(NUMPY_DTYPES[source])
    if target == "BF16":
        return _to_bfloat16(values)
    return values.astype(NUMPY_DTYPES[target])


def _to_bfloat16(values: Array) -> Array:
    words: Words = (_round_to_odd(values) if values.itemsize == 8 else values.astype("<f4")).view(
        np.uint32
    )
    rounded = (words + (((words >> 16) & 1) + 0x7FFF)) >> 16
    result: Array = np.where(np.isnan(values), (words >> 16) | QUIET_NAN_BIT, rounded)
    return result.astype("<u2")


def _round_to_odd(values: Array) -> Array:
    """Round float64 to float32 so that a second rounding is as if there had been one alone.

    Towards zero, and the last bit set where that was not exact (Boldo and Melquiond, "When double
    rounding is odd", 2005): then no value comes to lie on a tie that it was not on.
    """
    nearest = values.astype("<f4")
    exact = nearest.astype("<f8") == values
    words = nearest.view(np.uint32)
    towards_zero = words - (np.abs(nearest.astype("<f8")) > np.abs(values))
    odd = np.where(exact, words, towards_zero.astype(np.uint32) | 1)
    return odd.astype(np.uint32).view("<f4")
