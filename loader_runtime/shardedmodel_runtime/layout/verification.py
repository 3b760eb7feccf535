"""Reads every byte of a layout and holds it against the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from shardedmodel_runtime.errors import (
    ChecksumMismatch,
    InvalidSafetensors,
    LayoutError,
    NotFound,
    ShardedModelError,
    SourceChanged,
)
from shardedmodel_runtime.formats.safetensors import TensorEntry, parse_header
from shardedmodel_runtime.layout.companions import read_companion
from shardedmodel_runtime.layout.digests import ObjectDigest
from shardedmodel_runtime.layout.manifest import Manifest, block_spans
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.storage.base import ObjectInfo, ObjectStore
from shardedmodel_runtime.storage.reading import Reading

T = TypeVar("T")

OBJECTS_AT_ONCE = 4
"""Objects read side by side, each through one block's buffer: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one object.

    Args:
        key: of the object.
        reason: the error that it would be in a load: ``LayoutError`` where the object is not what
            the manifest describes, ``ChecksumMismatch`` where its bytes differ, ``SourceChanged``
            where it changed while it was read.
        message: what was found.
    """

    key: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found.

    Args:
        objects: objects looked at.
        bytes: bytes read and compared.
        problems: what is wrong, by object; empty when the layout is whole.
        digests: the state of each sound object, for reads that follow.
    """

    objects: int
    bytes: int
    problems: list[Problem] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def raise_if_broken(self) -> None:
        """Turn problems into an error.

        Raises:
            LayoutError: there are some.
        """
        if self.problems:
            first, broken = self.problems[0], {problem.key for problem in self.problems}
            raise LayoutError(
                f"broken objects of the layout: {len(broken)}, the first is {first.key}: "
                f"{first.message}; pre-shard the model again"
            )


def verify_layout(
    store: ObjectStore, manifest: Manifest, progressed: Callable[[int], None] = lambda count: None
) -> Verification:
    """Read a layout whole and compare sizes, headers, block checksums and SHA-256.

    Args:
        store: the layout's folder.
        manifest: what it should hold.
        progressed: told of the bytes of each block read, from several threads.

    Raises:
        StorageError: the store cannot be read; an object that is missing is a problem instead.
    """

    def verify(item: LayoutObject, reading: Reading) -> tuple[LayoutObject, str, list[Problem]]:
        try:
            info = store.describe(item.key)
            errors = _errors(store, manifest, item, info, progressed, reading)
            return item, info.digest, [_problem(item.key, error) for error in errors]
        except NotFound as error:
            return item, "", [_problem(item.key, LayoutError(error.what))]
        except SourceChanged as error:
            return item, "", [_problem(item.key, error)]

    results = _side_by_side(verify, manifest.objects)
    return Verification(
        objects=len(results),
        bytes=sum(item.bytes for item, _, _ in results),
        problems=[problem for _, _, found in results for problem in found]
        + list(_file_problems(store, manifest)),
        digests={item.key: digest for item, digest, found in results if not found},
    )


def _side_by_side(
    work: Callable[[LayoutObject, Reading], T], items: Sequence[LayoutObject]
) -> list[T]:
    """Work on items in threads; what ends the caller's wait, Ctrl-C say, ends their reads too."""
    readings = [Reading() for _ in items]
    executor = ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="verify")
    try:
        return list(executor.map(work, items, readings))
    finally:
        for reading in readings:
            reading.abandon()
        executor.shutdown(cancel_futures=True)


def _file_problems(store: ObjectStore, manifest: Manifest) -> Iterator[Problem]:
    for file in manifest.source.files:
        try:
            read_companion(store, file)
        except LayoutError as error:
            yield _problem(file.key, error)


def _problem(key: str, error: ShardedModelError) -> Problem:
    return Problem(key, error.reason, error.message)


def _errors(
    store: ObjectStore,
    manifest: Manifest,
    item: LayoutObject,
    info: ObjectInfo,
    progressed: Callable[[int], None],
    reading: Reading,
) -> Iterator[LayoutError]:
    if info.size != item.bytes:
        yield LayoutError(f"has {info.size} bytes, the manifest says {item.bytes}")
        return
    header = bytearray(item.data_start)
    store.read_range(item.key, 0, memoryview(header), digest=info.digest, reading=reading)
    yield from _header_errors(manifest, item, bytes(header))
    checksum = ObjectDigest(manifest.block_bytes)
    buffer = memoryview(bytearray(min(manifest.block_bytes, item.bytes)))
    for start, stop in block_spans(item.bytes, manifest.block_bytes):
        block = buffer[: stop - start]
        store.read_range(item.key, start, block, digest=info.digest, reading=reading)
        checksum.update(block)
        progressed(len(block))
    sha256, blocks = checksum.finish()
    for number, (found, expected) in enumerate(zip(blocks, item.blocks, strict=True)):
        if found != expected:
            at = number * manifest.block_bytes
            yield ChecksumMismatch(f"block {number} (from byte {at}) differs")
    if sha256 != item.sha256 and blocks == item.blocks:
        yield LayoutError("SHA-256 differs while every block agrees: the manifest was changed")


def _header_errors(manifest: Manifest, item: LayoutObject, header: bytes) -> Iterator[LayoutError]:
    try:
        found = parse_header(header, item.bytes, name=item.key)
    except InvalidSafetensors as error:
        yield LayoutError(error.message)
        return
    expected = tuple(
        TensorEntry(placed.name, placed.cut.dtype, placed.piece.shape, placed.start, placed.end)
        for placed in manifest.placed(item)
    )
    if found.data_start != item.data_start or found.tensors != expected:
        yield LayoutError("its safetensors header names other tensors than the manifest")
