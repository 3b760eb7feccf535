"""The safetensors header: parsed with every promise checked, and built on a 4 KiB boundary.

A file is a little-endian ``u64`` length, a JSON header of that length, and the tensors' bytes,
contiguous from 0 to the end of the file. Nothing is allocated for a tensor before its entry has
been held against the file's size. Rules: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from shardedmodel_runtime.errors import InvalidSafetensors, excerpt
from shardedmodel_runtime.formats.dtypes import MAX_OFFSET, tensor_bytes
from shardedmodel_runtime.formats.strict_json import parse_object

LENGTH_BYTES = 8
"""The little-endian ``u64`` that a file begins with."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit; a longer header is hostile or broken."""
GIT_LFS_BEGINNING = b"version https://git-lfs"
"""Of the text that a clone without Git LFS has in place of a large file."""
MAX_NAME_LENGTH = 1024
"""Longest tensor name: several times the longest of published checkpoints.

Names are refused when empty, longer or not printable. They may hold ``/`` and ``..`` all the same:
the format allows it, and no name of a tensor ever becomes the name of a file or an object here."""
MAX_DIMENSIONS = 64
"""Far more than any framework takes; bounds the product of a shape."""
DATA_ALIGNMENT = 4096
"""The data section begins on a page, so that it can be mapped and read directly."""
METADATA_KEY = "__metadata__"
SHAPES_REMEMBERED = 4096
"""Shapes whose size is computed once: a model has tens, however many layers and experts."""


class TensorEntry(NamedTuple):
    """One tensor: its offsets in bytes, half-open, relative to the data section.

    A tuple, because large models have hundreds of thousands of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header; ``tensors`` lie in this order, ``data_start`` bytes into the file."""

    tensors: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    data_start: int


def header_length(prefix: bytes | bytearray, file_size: int, *, name: str = "file") -> int:
    """Read the header's length from a file's first 8 bytes.

    Raises:
        InvalidSafetensors: too short, longer than the format allows, or past the file's end.
    """
    if file_size < LENGTH_BYTES or len(prefix) < LENGTH_BYTES:
        raise InvalidSafetensors(f"{name}: {file_size} bytes are too few for a safetensors file")
    if prefix.startswith(GIT_LFS_BEGINNING):
        raise InvalidSafetensors(
            f"{name}: is a pointer of Git LFS, not the weights; fetch them by `git lfs pull`, and "
            "upload the file again"
        )
    (length,) = struct.unpack("<Q", prefix[:LENGTH_BYTES])
    if length > MAX_HEADER_BYTES:
        raise InvalidSafetensors(
            f"{name}: header length {length} is above the format's limit of {MAX_HEADER_BYTES}; "
            "it is no safetensors file, or a broken one"
        )
    if LENGTH_BYTES + length > file_size:
        raise InvalidSafetensors(
            f"{name}: header length {length} reaches past the end of its {file_size} bytes"
        )
    return int(length)


def parse_header(data: bytes | bytearray, file_size: int, *, name: str = "file") -> Header:
    """Parse the length and header at the beginning of a file of ``file_size`` bytes.

    Args:
        data: the file's beginning, at least up to the end of the header.
        file_size: bytes of the whole file.
        name: how messages call the file.

    Raises:
        InvalidSafetensors: any rule of the format is broken; names the tensor and the value.
    """
    length = header_length(data, file_size, name=name)
    text = memoryview(data)[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        raise InvalidSafetensors(f"{name}: only {len(text)} of its header's {length} bytes came")
    fields = _parse_json(text, name)
    metadata = _metadata(fields.pop(METADATA_KEY, {}), name)
    entries = [_entry(key, value, name) for key, value in fields.items()]
    data_start = LENGTH_BYTES + length
    _order(entries, file_size - data_start, name)
    return Header(tuple(entries), metadata, data_start)


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Build length and header for tensors (name, dtype, shape) that lie in this order.

    Spaces pad the header so that the data section begins at a multiple of ``DATA_ALIGNMENT``.

    Raises:
        InvalidSafetensors: a dtype or shape is impossible, or the header outgrows the format.
    """
    fields: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        end = position + tensor_bytes(dtype, shape)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % DATA_ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidSafetensors(
            f"a header of {len(text)} bytes is above the format's limit of {MAX_HEADER_BYTES}"
        )
    return struct.pack("<Q", len(text)) + text


class _Fields(NamedTuple):
    """The fields of an entry that keeps every rule, before its name is known."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _parse_json(text: memoryview, name: str) -> dict[str, Any]:
    if bytes(text[:1]) != b"{":
        raise InvalidSafetensors(f"{name}: header does not begin with '{{'")
    try:
        return parse_object(text, _compact)
    except ValueError as e:
        raise InvalidSafetensors(f"{name}: header is {excerpt(str(e))}") from e


def _compact(fields: dict[str, Any]) -> _Fields | dict[str, Any]:
    """Give the fields of a good entry in little memory, and any other object as it is."""
    if len(fields) != len(_Fields._fields) - 1:
        return fields
    try:
        return _checked(fields)
    except InvalidSafetensors:
        return fields  # metadata perhaps; else it is refused when its name is known


def _metadata(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise InvalidSafetensors(f"{name}: {METADATA_KEY} does not map strings to strings")
    try:
        "".join((*value, *value.values())).encode()
    except UnicodeEncodeError as e:  # JSON's escapes can name half a character
        raise InvalidSafetensors(f"{name}: {METADATA_KEY} is not Unicode: {e.reason}") from e
    return value


def _entry(key: str, value: Any, name: str) -> TensorEntry:
    try:
        if not 0 < len(key) <= MAX_NAME_LENGTH or not key.isprintable():
            raise InvalidSafetensors("name is empty, too long or not printable")
        return TensorEntry(key, *(value if isinstance(value, _Fields) else _checked(value)))
    except InvalidSafetensors as e:
        raise InvalidSafetensors(f"{name}: tensor {excerpt(key)!r}: {e.message}") from e


def _checked(value: Any) -> _Fields:
    """Hold one entry's fields against the format's rules."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidSafetensors("needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise InvalidSafetensors("dtype is not a string")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise InvalidSafetensors(
            f"shape is not a list of at most {MAX_DIMENSIONS} natural numbers below 2**63"
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InvalidSafetensors("data_offsets are not two ascending natural numbers below 2**63")
    start, end = offsets
    dtype, dimensions, size = _sized(dtype, tuple(shape))
    if end - start != size:
        raise InvalidSafetensors(
            f"{dtype} of shape {excerpt(str(shape))} takes {size} bytes, its offsets "
            f"hold {end - start}"
        )
    return _Fields(dtype, dimensions, start, end)


@lru_cache(SHAPES_REMEMBERED)
def _sized(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], int]:
    """Give dtype and shape back, as objects that equal ones share, and their size in bytes."""
    return dtype, shape, tensor_bytes(dtype, shape)


def _naturals(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    # `all` takes twice as long, and this is what most of a header's time goes to.
    for each in value:  # noqa: SIM110
        # The type itself is compared: JSON's true and 1.0 equal 1.
        if type(each) is not int or not 0 <= each <= MAX_OFFSET:
            return False
    return True


def _order(entries: list[TensorEntry], data_size: int, name: str) -> None:
    """Sort by offsets, in place, and see that they leave no hole."""
    entries.sort(key=attrgetter("end"))
    entries.sort(key=attrgetter("start"))
    position = 0
    for entry in entries:
        if entry.start != position:
            kind = "overlaps the one before it" if entry.start < position else "leaves a hole"
            raise InvalidSafetensors(
                f"{name}: tensor {excerpt(entry.name)!r} begins at {entry.start} and {kind}; "
                f"{position} follows"
            )
        position = entry.end
    if position != data_size:
        raise InvalidSafetensors(
            f"{name}: tensors end at byte {position} of the data, the file at {data_size}; "
            "it is truncated or has bytes that belong to nothing"
        )
