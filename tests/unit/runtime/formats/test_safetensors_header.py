from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from shardedmodel_runtime.errors import InvalidSafetensors
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS, alignment, tensor_bytes
from shardedmodel_runtime.formats.safetensors import (
    DATA_ALIGNMENT,
    MAX_HEADER_BYTES,
    build_header,
    parse_header,
)
from tests.builders.checkpoint import random_bits, safetensors_bytes


def entry(start: int, end: int, shape: Any = None, dtype: Any = "U8", **more: Any) -> Any:
    shape = [end - start] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end], **more}


def file_of(header: Any, data: int = 0) -> tuple[bytes, int]:
    """A file's bytes up to its data, and its size with ``data`` bytes behind."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + data


def test_a_header_that_was_built_parses_to_what_went_in() -> None:
    header = build_header([("a", "F32", (2, 3)), ("b", "BOOL", ())], {"format": "pt"})
    parsed = parse_header(header, len(header) + 25)
    assert [(t.name, t.dtype, t.shape, t.start, t.end) for t in parsed.tensors] == [
        ("a", "F32", (2, 3), 0, 24),
        ("b", "BOOL", (), 24, 25),
    ]
    assert parsed.metadata == {"format": "pt"}


def test_a_built_header_is_these_bytes() -> None:
    text = b'{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    padding = b" " * (4096 - 8 - len(text))
    assert build_header([("w", "BF16", (2, 2))]) == struct.pack("<Q", 4088) + text + padding


@given(st.integers(0, 400))
@settings(max_examples=20)
def test_data_always_begins_on_a_page(count: int) -> None:
    header = build_header((f"tensor.{n}", "F16", (n,)) for n in range(count))
    assert len(header) % DATA_ALIGNMENT == 0


def test_the_reference_implementation_opens_what_is_built(tmp_path: Path) -> None:
    tensors = {"a": random_bits("F32", (3, 5)), "b": random_bits("I64", (2,))}
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    with safe_open(path, framework="np") as opened:
        assert {name: opened.get_tensor(name).tobytes() for name in opened.keys()} == {  # noqa: SIM118
            name: array.tobytes() for name, (_, array) in tensors.items()
        }


WRONG_HEADERS = {
    "not an object": (b"[1]", 0, "does not begin with"),
    "not JSON": (b"{nonsense", 0, "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', 0, "not valid JSON"),
    "UTF-16": ("{}".encode("utf-16-le"), 0, "not valid JSON"),
    "integer of 5000 digits": (b'{"a":' + b"9" * 5000 + b"}", 0, "not valid JSON"),
    "nested too deep": (b'{"a":' * 100_000, 0, "not valid JSON"),
    "key twice": (b'{"a":{},"a":{}}', 0, "stands twice"),
    "field twice": (b'{"a":{"dtype":"U8","dtype":"U8"}}', 0, "stands twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, "strings to strings"),
    "unknown dtype": ({"a": entry(0, 4, dtype="F31")}, 4, "'F31'"),
    "dtype no string": ({"a": entry(0, 4, dtype=7)}, 4, "dtype is not a string"),
    "unknown field": ({"a": entry(0, 4, extra=1)}, 4, "needs exactly"),
    "entry no object": ({"a": 3}, 0, "needs exactly"),
    "negative dimension": ({"a": entry(0, 4, [-4])}, 4, "natural numbers"),
    "fractional dimension": ({"a": entry(0, 4, [4.0])}, 4, "natural numbers"),
    "boolean dimension": ({"a": entry(0, 1, [True])}, 1, "natural numbers"),
    "too many dimensions": ({"a": entry(0, 1, [1] * 65)}, 1, "natural numbers"),
    "dimension beyond 64 bits": ({"a": entry(0, 4, [10**4000])}, 4, "natural numbers"),
    "offsets beyond 64 bits": ({"a": entry(2**63, 2**63)}, 0, "ascending natural numbers"),
    "shape overflows": ({"a": entry(0, 4, [2**62, 2**62])}, 4, "overflows"),
    "overflow beside a zero": ({"a": entry(0, 0, [0, 2**62, 2**62])}, 0, "overflows"),
    "unknown dtype beyond measure": ({"a": entry(0, 4, dtype="F" * 10**6)}, 4, "not one of"),
    "half a byte": ({"a": entry(0, 1, [1], "F4")}, 1, "whole bytes"),
    "size is not the shape's": ({"a": entry(0, 4, [2])}, 4, "takes 2 bytes"),
    "offsets descend": ({"a": entry(4, 0, [4])}, 4, "ascending"),
    "one offset": ({"a": {**entry(0, 4), "data_offsets": [4]}}, 4, "ascending"),
    "hole": ({"a": entry(0, 4), "b": entry(6, 8)}, 8, "leaves a hole"),
    "overlap": ({"a": entry(0, 4), "b": entry(2, 8)}, 8, "overlaps"),
    "first not at 0": ({"a": entry(4, 8)}, 8, "leaves a hole"),
    "truncated data": ({"a": entry(0, 4)}, 3, "truncated"),
    "bytes of nobody": ({"a": entry(0, 4)}, 5, "belong to nothing"),
    "empty name": ({"": entry(0, 4)}, 4, "name is empty"),
    "name with a control character": ({"a\nb": entry(0, 4)}, 4, "not printable"),
    "name too long": ({"a" * 1025: entry(0, 4)}, 4, "too long"),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_a_header_that_lies_is_refused_by_name(case: str) -> None:
    header, data, message = WRONG_HEADERS[case]
    with pytest.raises(InvalidSafetensors, match=message) as refused:
        parse_header(*file_of(header, data), name="model.safetensors")
    assert refused.value.message.startswith("model.safetensors: ")
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (b"", 0, "too few"),
        (b"\0" * 7, 7, "too few"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), 2**40, "above the format's limit"),
        (b"<html>not found</html>", 22, "it is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", 130, "by `git lfs pull`"),
        (struct.pack("<Q", 100) + b"{}", 10, "past the end"),
        (struct.pack("<Q", 100) + b"{}", 108, "only 2 of"),
    ],
)
def test_a_length_that_lies_is_refused_before_anything_is_read(
    data: bytes, size: int, message: str
) -> None:
    with pytest.raises(InvalidSafetensors, match=message):
        parse_header(data, size)


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 2**50, [2**50])},
        {"a": entry(0, 4, [2**62, 2**62])},
        {"a": entry(0, 2**62), "b": entry(2**62, 2**63 - 1)},
    ],
)
def test_what_a_header_claims_takes_no_memory(header: Any) -> None:
    raw, size = file_of(header, 4)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSafetensors):
            parse_header(raw, size)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_all_dtypes_of_the_format_are_known() -> None:
    assert len(DTYPE_BITS) == 22


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_has_its_size(dtype: str) -> None:
    assert tensor_bytes(dtype, (8, 3)) == 3 * DTYPE_BITS[dtype]
    assert alignment(dtype) == max(1, DTYPE_BITS[dtype] // 8)


@pytest.mark.parametrize("shape", [(0,), (5, 0)])
def test_empty_tensors_are_legal(shape: tuple[int, ...]) -> None:
    assert tensor_bytes("F32", shape) == 0


def test_a_negative_dimension_has_no_size() -> None:
    with pytest.raises(InvalidSafetensors, match="negative dimension"):
        tensor_bytes("F32", (-1, 2))


def test_names_with_path_parts_are_names_like_others() -> None:
    header = build_header([("../../etc/passwd", "U8", (1,))])
    assert parse_header(header, len(header) + 1).tensors[0].name == "../../etc/passwd"


def test_spaces_may_follow_the_header() -> None:
    assert parse_header(*file_of(b"{}" + b" " * 14)).data_start == 24


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    raw, size = file_of({"late": entry(4, 8), "empty": entry(4, 4), "early": entry(0, 4)}, 8)
    assert [t.name for t in parse_header(raw, size).tensors] == ["early", "empty", "late"]


def test_a_header_beyond_the_limit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardedmodel_runtime.formats.safetensors.MAX_HEADER_BYTES", 5000)
    with pytest.raises(InvalidSafetensors, match="above the format's limit"):
        build_header([], {"filler": "x" * 5000})
