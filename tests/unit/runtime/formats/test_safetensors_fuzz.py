"""Any bytes give a whole header or ``InvalidSafetensors``; the reference parser is the judge.

What a run ever found stands in the folder ``found``, as an ``@example``, or in
``test_safetensors_header.py``.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardedmodel_runtime.errors import InvalidSafetensors
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.formats.safetensors import Header, parse_header

reference_parse: Any = safetensors.deserialize
"""The format's own implementation; it carries no types."""

MESSAGE_LIMIT = 1000
"""Characters of a message, so that a hostile file cannot flood a status."""

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))
"""Headers, each of a file with one byte of data, that a parser took or refused wrongly once."""

STRICTER = re.compile(
    "needs exactly dtype, shape and data_offsets|name is empty, too long or not printable"
    "|header does not begin with|stands twice"
)
"""Rules that the reference does not keep: each guards against readers that differ in what they
see, or messages that cannot be shown."""

GOOD = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [], "data_offsets": [8, 9]},
        "c": {"dtype": "F4", "shape": [0, 3], "data_offsets": [9, 9]},
    }
).encode()
GOOD_DATA_BYTES = 9


def parsed(data: bytes, size: int) -> Header | None:
    """The header, whole by its own account, or None where it is refused in few words."""
    refusals: list[str] = []
    try:
        header = parse_header(data, size)
    except InvalidSafetensors as e:
        refusals.append(e.message)
    if refusals:
        assert len(refusals[0]) < MESSAGE_LIMIT
        return None
    assert header.data_start + sum(tensor.end - tensor.start for tensor in header.tensors) == size
    return header


def with_length(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@given(st.binary(max_size=300), st.integers(0, 400))
@example(struct.pack("<Q", 2) + b"{}", 10)
@example(struct.pack("<Q", 2) + b"[]", 10)
@settings(max_examples=60)
def test_any_bytes_give_a_whole_header_or_the_one_error(data: bytes, size: int) -> None:
    parsed(data, size)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good header with a few stretches replaced, removed or put in."""
    text = GOOD
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(start + 6, len(text))))
        pieces = st.sampled_from([b"0", b"-1", b"9" * 30, b",", b'"', b"[]", b"{}", b"\\u0000"])
        text = text[:start] + draw(pieces | st.binary(max_size=4)) + text[stop:]
    return text


@given(mutations(), st.integers(-2, 2))
@example("{}".encode("utf-16-le"), 0)
@example(b'{"a":{"dtype":"U8","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,1]}}', 0)
@settings(max_examples=150)
def test_what_is_accepted_the_reference_accepts_and_reads_alike(text: bytes, more: int) -> None:
    data = bytes(GOOD_DATA_BYTES + more)
    raw = with_length(text)
    header = parsed(raw, len(raw) + len(data))
    if header is not None:
        theirs = dict(reference_parse(raw + data))
        assert {
            tensor.name: (tensor.dtype, list(tensor.shape), tensor.end - tensor.start)
            for tensor in header.tensors
        } == {
            name: (each["dtype"], each["shape"], len(each["data"])) for name, each in theirs.items()
        }


def judged(text: bytes, data: int) -> tuple[str, bool]:
    """Why we refuse a header, empty where we take it; and whether the reference takes it."""
    raw = with_length(text)
    reason = ""
    try:
        parse_header(raw, len(raw) + data)
    except InvalidSafetensors as e:
        reason = e.message
    try:
        reference_parse(raw + bytes(data))
    except safetensors.SafetensorError:
        return reason, False
    return reason, True


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_is_refused(path: Path) -> None:
    reason, accepted = judged(path.read_bytes(), 1)
    assert reason
    assert not accepted or STRICTER.search(reason)


@st.composite
def byte_mutations(draw: st.DrawFn) -> bytes:
    """A good header with bits flipped, bytes dropped, and its own tokens put elsewhere."""
    text = bytearray(GOOD)
    tokens = st.sampled_from(re.findall(rb'"[^"]*"|[^"\s]', GOOD))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text) - 1))
        match draw(st.sampled_from(["flip", "drop", "put", "repeat"])):
            case "flip":
                text[place] ^= 1 << draw(st.integers(0, 7))
            case "drop":
                del text[place : place + draw(st.integers(1, 3))]
            case "put":
                text[place:place] = draw(tokens)
            case _:
                text[place:place] = text[place : place + draw(st.integers(1, 60))]
    return bytes(text)


@given(byte_mutations(), st.integers(-1, 1))
@settings(max_examples=300)
def test_only_stated_rules_are_stricter_than_the_reference(text: bytes, more: int) -> None:
    reason, accepted = judged(text, GOOD_DATA_BYTES + more)
    assert accepted or reason, "taken, but the reference refuses it"
    assert not (accepted and reason) or STRICTER.search(reason), reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPE_BITS)) | json_values,
        "shape": st.lists(st.integers(0, 9), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 99), min_size=2, max_size=2) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=4), json_values | entries, max_size=3), st.integers(0, 200))
@settings(max_examples=60)
def test_any_json_gives_a_whole_header_or_the_one_error(header: Any, data: int) -> None:
    raw = with_length(json.dumps(header).encode())
    parsed(raw, len(raw) + data)
