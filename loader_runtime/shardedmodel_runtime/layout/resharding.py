"""A layout as the checkpoint that it was cut from, so that it can be cut anew without that.

The tensors stand in one row, as in a single file; a ranged read of it is put together from the
pieces that ranks hold; of copies one counts, and pad never does. The pieces lie in their objects in
the order in which a pass over the row comes to them, so such a pass reads every object front to
back, once, and checks it on the way. Names and digests are those of the original source: the same
checkpoint cut for the same ranks is the same layout, whichever way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.errors import LayoutError, NotFound, excerpt
from shardedmodel_runtime.formats.hf import CONFIG_BYTES_LIMIT, CONFIG_KEY, parse_config
from shardedmodel_runtime.layout.assembling import Block, Holding, TensorAssembly
from shardedmodel_runtime.layout.checking import CheckedObject
from shardedmodel_runtime.layout.companions import read_companion
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject, ManifestFile
from shardedmodel_runtime.layout.placement import PieceCache
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.storage.base import ObjectInfo, ObjectStore, too_large
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.uri import join_uri

READ_THREADS = 8
"""Pieces of one span that are read side by side: a span of 16 MiB lies in as many objects as
there are tensor ranks, a small part in each, so latency is what is hidden."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes ``[start, stop)`` of one object, read at once, and the blocks in them."""

    key: str
    start: int
    stop: int
    blocks: tuple[Block, ...]


class LayoutSource:
    """A checkpoint to read, made of a layout; what was read is known to be sound once it settled.

    Args:
        layout: the layout's folder.
        manifest: the layout's manifest.

    Raises:
        LayoutError: the layout does not say what it was cut from.
    """

    def __init__(self, layout: ObjectStore, manifest: Manifest) -> None:
        self.uri = layout.uri
        self._layout = layout
        self._manifest = manifest
        self._checked = {
            item.key: CheckedObject(layout, item, manifest.block_bytes) for item in manifest.objects
        }
        self._files = {file.name: file for file in manifest.source.files}
        self._weights_key = _first_weights_key(manifest)
        sizes = [cut.nbytes for cut in manifest.tensors.values()]
        self._starts = [0, *accumulate(sizes)]
        self._objects = [_ObjectIndex(manifest, item) for item in manifest.objects]
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="assemble")

    @property
    def bytes_read(self) -> int:
        """Bytes received of the layout so far."""
        return self._layout.bytes_read

    @property
    def requests(self) -> int:
        """Requests made of the layout so far."""
        return self._layout.requests

    @property
    def retries(self) -> int:
        """Requests that were repeated."""
        return self._layout.retries

    def metadata(self) -> CheckpointMetadata:
        """What the checkpoint's headers would say; the original's objects and digests.

        Raises:
            LayoutError: the layout holds no usable ``config.json``.
            CheckpointError: what it holds cannot be.
        """
        config = parse_config(self.read(CONFIG_KEY, limit=CONFIG_BYTES_LIMIT))
        objects = [
            ObjectInfo(item.key, item.bytes, item.digest) for item in self._manifest.source.objects
        ]
        spans = pairwise(self._starts)
        tensors = {
            name: SourceTensor(name, cut.dtype, cut.shape, self._weights_key, start, stop)
            for (name, cut), (start, stop) in zip(
                self._manifest.tensors.items(), spans, strict=True
            )
        }
        return CheckpointMetadata(
            config,
            tuple(item for item in objects if item.key.endswith(".safetensors")),
            tuple(item for item in objects if not item.key.endswith(".safetensors")),
            tensors,
        )

    def describe(self, key: str) -> ObjectInfo:
        """Describe one of the small files."""
        file = self._file(key)
        return ObjectInfo(key, file.bytes, f"sha256:{file.sha256}")

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Describe the small files."""
        return [self.describe(key) for key in self._files if not prefix]

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        """Read one of the small files whole."""
        file = self._file(key)
        if file.bytes > limit:
            raise too_large(join_uri(self.uri, file.key), file.bytes, limit)
        return read_companion(self._layout, file)

    def read_head(self, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
        """Describe one of the small files and give its beginning."""
        return self.describe(key), read_companion(self._layout, self._file(key))[:limit]

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Fill ``into`` with the bytes of tensors from ``start`` on.

        Raises:
            LayoutError: the layout is broken, or its pieces do not cover a tensor.
            SourceChanged: an object changed since it was first read.
            StorageError: the layout cannot be read.
        """
        target = np.frombuffer(into, np.uint8)

        def read(of_object: list[Stretch]) -> None:
            for stretch in of_object:
                data = bytearray(stretch.stop - stretch.start)
                checked = self._checked[stretch.key]
                checked.read(stretch.start, memoryview(data), reading)
                for block in stretch.blocks:
                    _copy(block, data, block.start - stretch.start, target)

        wanted = stretches(self._blocks(start, start + len(into)))
        by_object = [list(of_object) for _, of_object in groupby(wanted, lambda each: each.key)]
        for _ in self._pool.map(read, by_object):
            pass

    def settle(self) -> None:
        """Read what no read has come to, and see that the whole layout is what it says.

        Raises:
            LayoutError: it is not; nothing that was read of it can be trusted.
            SourceChanged: an object changed since it was first read.
            StorageError: the layout cannot be read.
        """
        for _ in self._pool.map(CheckedObject.finish, self._checked.values()):
            pass

    def close(self) -> None:
        """End the reading threads; the layout is its opener's to close."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _blocks(self, start: int, stop: int) -> Iterator[Block]:
        """Where the bytes ``[start, stop)`` of the row of tensors lie."""
        number = bisect_right(self._starts, start) - 1
        names = self._manifest.names
        while number < len(names) and self._starts[number] < stop:
            offset = self._starts[number]
            first, last = max(start - offset, 0), min(stop, self._starts[number + 1]) - offset
            for block in self._assembly(number).blocks(first, last):
                yield block.moved(offset + first - start)
            number += 1

    def _assembly(self, number: int) -> TensorAssembly:
        name = self._manifest.names[number]
        cut = self._manifest.tensors[name]
        found = (item.find(number, cut) for item in self._objects)
        held = [holding for holding in found if holding is not None]
        return TensorAssembly(name, cut.dtype, cut.shape, held)

    def _file(self, key: str) -> ManifestFile:
        if key not in self._files:
            raise NotFound(f"{self.uri}: the layout keeps no {excerpt(key)} of its source")
        return self._files[key]


class _ObjectIndex:
    """Where the pieces in one object begin, by the tensors' numbers: 8 bytes for each."""

    def __init__(self, manifest: Manifest, item: LayoutObject) -> None:
        self._key = item.key
        self._data_start = item.data_start
        self._ranges = item.tensors
        place = manifest.degrees.coordinate(item.ranks[0])
        self._piece_of = PieceCache(place.tensor, place.expert)
        counts = (stop - first for first, stop in item.tensors)
        self._before = [0, *accumulate(counts)]
        laid = manifest.placement(item)
        self._starts = laid.starts[np.argsort(laid.numbers)]

    def find(self, number: int, cut: TensorCut) -> Holding | None:
        """The piece of a tensor that the object holds, if it holds one."""
        at = bisect_right(self._ranges, number, key=lambda span: span[0]) - 1
        if at < 0 or number >= self._ranges[at][1]:
            return None
        place = self._before[at] + number - self._ranges[at][0]
        piece = self._piece_of(cut)
        ranges = {part.dim: part.ranges for part in piece.slices}
        start = self._data_start + int(self._starts[place])
        return Holding(self._key, start, piece.shape, ranges)


def stretches(blocks: Iterable[Block]) -> list[Stretch]:
    """Gather blocks that touch each other in an object, so that each byte is read once."""
    gathered: list[Stretch] = []
    for block in sorted(blocks, key=lambda block: (block.key, block.start)):
        last = gathered[-1] if gathered else None
        if last is not None and last.key == block.key and block.start <= last.stop:
            stop = max(last.stop, block.stop)
            gathered[-1] = Stretch(last.key, last.start, stop, (*last.blocks, block))
        else:
            gathered.append(Stretch(block.key, block.start, block.stop, (block,)))
    return gathered


def _copy(block: Block, data: bytearray, offset: int, target: npt.NDArray[np.uint8]) -> None:
    shape, strides = (block.rows, block.width), (block.target_stride, 1)
    there: npt.NDArray[np.uint8] = np.ndarray(shape, np.uint8, target, block.target, strides)
    there[...] = np.ndarray(shape, np.uint8, data, offset, (block.stride, 1))


def _first_weights_key(manifest: Manifest) -> str:
    """Under this name the row of tensors is read; which file had which is not known any more."""
    keys = [item.key for item in manifest.source.objects if item.key.endswith(".safetensors")]
    if not keys:
        raise LayoutError("source.objects: names no .safetensors object that was cut")
    return keys[0]
