"""Reads every byte of a layout and holds it against the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from shardedmodel_runtime.errors import (
    InvalidSafetensors,
    LayoutError,
    NotFound,
    SourceChanged,
)
from shardedmodel_runtime.formats.safetensors import TensorEntry, parse_header
from shardedmodel_runtime.layout.companions import read_companion
from shardedmodel_runtime.layout.digests import ObjectDigest
from shardedmodel_runtime.layout.manifest import Manifest, block_spans
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.storage.base import ObjectInfo, ObjectStore

OBJECTS_AT_ONCE = 4
"""Objects read side by side, each through one block's buffer: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one object."""

    key: str
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
            first = self.problems[0]
            raise LayoutError(
                f"{len(self.problems)} of {self.objects} objects are broken: {first.key}: "
                f"{first.message}"
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

    def verify(item: LayoutObject) -> tuple[LayoutObject, str, list[str]]:
        try:
            info = store.describe(item.key)
            return item, info.digest, list(_problems(store, manifest, item, info, progressed))
        except (NotFound, SourceChanged) as error:
            return item, "", [error.message]

    with ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="verify") as executor:
        results = list(executor.map(verify, manifest.objects))
    return Verification(
        objects=len(results),
        bytes=sum(item.bytes for item, _, _ in results),
        problems=[Problem(item.key, text) for item, _, texts in results for text in texts]
        + list(_file_problems(store, manifest)),
        digests={item.key: digest for item, digest, texts in results if not texts},
    )


def _file_problems(store: ObjectStore, manifest: Manifest) -> Iterator[Problem]:
    for file in manifest.source.files:
        try:
            read_companion(store, file)
        except LayoutError as error:
            yield Problem(file.key, error.message)


def _problems(
    store: ObjectStore,
    manifest: Manifest,
    item: LayoutObject,
    info: ObjectInfo,
    progressed: Callable[[int], None],
) -> Iterator[str]:
    if info.size != item.bytes:
        yield f"has {info.size} bytes, the manifest says {item.bytes}"
        return
    header = bytearray(item.data_start)
    store.read_range(item.key, 0, memoryview(header), digest=info.digest)
    yield from _header_problems(manifest, item, bytes(header))
    checksum = ObjectDigest(manifest.block_bytes)
    buffer = memoryview(bytearray(min(manifest.block_bytes, item.bytes)))
    for start, stop in block_spans(item.bytes, manifest.block_bytes):
        block = buffer[: stop - start]
        store.read_range(item.key, start, block, digest=info.digest)
        checksum.update(block)
        progressed(len(block))
    sha256, blocks = checksum.finish()
    for number, (found, expected) in enumerate(zip(blocks, item.blocks, strict=True)):
        if found != expected:
            yield f"block {number} (from byte {number * manifest.block_bytes}) differs"
    if sha256 != item.sha256 and blocks == item.blocks:
        yield "SHA-256 differs while every block agrees: the manifest was changed"


def _header_problems(manifest: Manifest, item: LayoutObject, header: bytes) -> Iterator[str]:
    try:
        found = parse_header(header, item.bytes, name=item.key)
    except InvalidSafetensors as error:
        yield error.message
        return
    expected = tuple(
        TensorEntry(placed.name, placed.cut.dtype, placed.piece.shape, placed.start, placed.end)
        for placed in manifest.placed(item)
    )
    if found.data_start != item.data_start or found.tensors != expected:
        yield "its safetensors header names other tensors than the manifest"
