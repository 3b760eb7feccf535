from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.formats.dtypes import CASTABLE, DTYPE_BITS
from shardedmodel_runtime.layout.casting import Cast

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
Doubles = npt.NDArray[np.float64]


def random_bits(dtype: str, count: int = 20_000) -> bytes:
    """Any bits at all: NaN payloads, infinities, subnormal numbers."""
    return np.random.default_rng(1).bytes(count * DTYPE_BITS[dtype] // 8)


def cast(data: bytes, source: str, target: str) -> torch.Tensor:
    done = bytearray(Cast(source, target)(memoryview(data)))
    return torch.frombuffer(done, dtype=TORCH[target])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal values and signs, and NaN where the other is NaN."""
    nan = one.isnan()
    return bool(torch.equal(nan, other.isnan())) and torch.equal(
        one[~nan].view(torch.uint8), other[~nan].view(torch.uint8)
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [pair for pair in permutations(sorted(CASTABLE), 2) if pair != ("F64", "BF16")],
)
def test_every_bit_pattern_is_cast_as_torch_casts_it(source: str, target: str) -> None:
    data = random_bits(source)
    expected = torch.frombuffer(bytearray(data), dtype=TORCH[source]).to(TORCH[target])
    assert same(cast(data, source, target), expected)


def nearest(values: Doubles, dtype: str) -> torch.Tensor:
    """Nearest value of a 16-bit dtype, by search; of two, the one with an even last bit."""
    patterns = torch.arange(0x8000, dtype=torch.int16).view(TORCH[dtype])
    known = patterns.double().numpy()
    finite = known[np.isfinite(known)]
    # What comes next after the largest would be one step above it; from its middle on it is inf.
    ladder = np.append(finite, 2 * finite[-1] - finite[-2])
    size = np.abs(values)
    above = np.clip(np.searchsorted(ladder, size), 1, len(ladder) - 1)
    middle = (ladder[above - 1] + ladder[above]) / 2
    index = np.where((size > middle) | ((size == middle) & (above % 2 == 0)), above, above - 1)
    found = np.append(finite, np.inf)[index]
    return torch.from_numpy(np.copysign(found, values)).to(TORCH[dtype])


@st.composite
def doubles(draw: st.DrawFn) -> float:
    """Doubles that lie at, or by a little beside, the middle between two bfloat16."""
    word = draw(st.integers(0, 0x7F7F)) << 16 | draw(st.sampled_from([0x7FFF, 0x8000, 0x8001]))
    value = float(np.uint32(word).view(np.float32))
    return value * (1 + draw(st.sampled_from([0, 2**-40, -(2**-40), 2**-52])))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | doubles(), min_size=1))
@pytest.mark.parametrize("target", ["BF16", "F16"])
def test_doubles_are_rounded_once(target: str, values: list[float]) -> None:
    array = np.array(values, np.float64)
    assert same(cast(array.tobytes(), "F64", target), nearest(array, target))


@pytest.mark.parametrize("source", ["F64", "F32"])
def test_what_is_not_finite_stays_what_it_is(source: str) -> None:
    words: Any = {"F64": np.uint64, "F32": np.uint32}[source]
    payload = {"F64": 0x7FF0000000000001, "F32": 0x7F800001}[source]
    data = np.array([payload], words).tobytes()
    assert cast(data, source, "BF16").isnan().all()
    floats: Any = {"F64": np.float64, "F32": np.float32}[source]
    infinite = np.array([np.inf, -np.inf], floats).tobytes()
    assert cast(infinite, source, "BF16").tolist() == [np.inf, -np.inf]


def test_what_is_too_large_becomes_infinite() -> None:
    data = np.array([1e300, -1e300, 3.4e38, 70000.0], np.float64).tobytes()
    assert cast(data, "F64", "BF16").tolist()[:2] == [np.inf, -np.inf]
    assert cast(data, "F64", "F16").tolist()[3] == np.inf


def test_nothing_is_cast_to_nothing() -> None:
    assert bytes(Cast("F32", "BF16")(memoryview(b""))) == b""
