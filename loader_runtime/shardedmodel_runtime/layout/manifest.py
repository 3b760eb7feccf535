"""``manifest.json``: what a layout holds and where, and by its presence that it is whole.

The manifest is written last, so a layout without one does not exist. Readers take its word for
keys, sizes and checksums and never list a store; so what it says is checked here, before any of
it is used: sizes against offsets, blocks against sizes, keys against leaving the layout.
``docs/layout-format.md`` is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from shardedmodel_runtime.errors import (
    InvalidSafetensors,
    LayoutError,
    LayoutNotFound,
    NotFound,
    excerpt,
)
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.naming import LAYOUT_FORMAT, LAYOUT_FORMAT_VERSION, MANIFEST_KEY
from shardedmodel_runtime.parallelism import MAX_DEGREE, Parallelism
from shardedmodel_runtime.report import Wire
from shardedmodel_runtime.storage.base import ObjectStore, is_plain_key
from shardedmodel_runtime.storage.uri import join_uri

BLOCK_BYTES = 16 * 1024 * 1024
"""Bytes under one checksum: what a rank reads in one request and can read again alone."""
BLOCK_ALGORITHM = "xxh3-128"
"""Guards against accidents at memory speed; the SHA-256 of an object is for signatures."""
MANIFEST_BYTES_LIMIT = 256 * 1024 * 1024
"""Largest manifest that is read: 1,000,000 tensor entries at some 150 bytes, and its blocks."""

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Block = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class ManifestSourceObject(Wire):
    """One object of the checkpoint that the layout was cut from."""

    key: Name
    bytes: Count
    digest: Name


class ManifestSource(Wire):
    """The checkpoint that the layout was cut from."""

    uri: Name
    revision: str = ""
    model_type: str = ""
    objects: list[ManifestSourceObject]


class ManifestParallelism(Wire):
    """The degrees that the layout was cut for."""

    tensor: int = Field(ge=1, le=MAX_DEGREE)
    pipeline: int = Field(default=1, ge=1, le=MAX_DEGREE)
    expert: int = Field(default=1, ge=1, le=MAX_DEGREE)


class ManifestTensor(Wire):
    """One tensor of the checkpoint, whole: how it is cut, and along which dimension."""

    dtype: Name
    shape: list[Count]
    strategy: Name
    dim: int | None = Field(default=None, ge=0, description="null: replicated")


class PlacedTensor(Wire):
    """One tensor's piece in an object.

    ``start`` and ``end`` are bytes relative to the object's ``data_start``; ``ranges`` are the
    half-open ranges of the whole tensor along its ``dim`` that the piece holds, in order, and
    ``pad`` the zero rows that follow them.
    """

    shape: list[Count]
    start: Count
    end: Count
    ranges: list[tuple[Count, Count]] = Field(default_factory=list)
    pad: Count = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the piece."""
        return self.end - self.start


class LayoutObject(Wire):
    """One safetensors object and what is in it; a rank needs those whose ``ranks`` hold it."""

    key: Name
    ranks: Annotated[list[Count], Field(min_length=1)]
    bytes: Count
    sha256: Sha256
    blocks: list[Block]
    data_start: Count
    tensors: dict[Name, PlacedTensor]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not is_plain_key(self.key):
            raise ValueError(f"key {excerpt(self.key)!r} leaves the layout")
        if any(a >= b for a, b in pairwise(self.ranks)):
            raise ValueError("ranks are not ascending")
        position = 0
        for name, tensor in self.tensors.items():
            if tensor.start != position or tensor.end < tensor.start:
                raise ValueError(
                    f"tensor {excerpt(name)!r} lies at [{tensor.start}, {tensor.end}), where "
                    f"{position} follows from the one before it"
                )
            position = tensor.end
        if self.data_start + position != self.bytes:
            raise ValueError(
                f"its tensors end at {self.data_start + position}, its bytes at {self.bytes}"
            )
        return self


class Manifest(Wire):
    """The whole of ``manifest.json``."""

    format: Literal["shardedmodel.dev/layout"]
    version: Literal[1]
    layout_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    created_by: Annotated[str, StringConstraints(max_length=128)] = ""
    source: ManifestSource
    parallelism: ManifestParallelism
    dtype: Name = "keep"
    plan_digest: Name
    block_bytes: int = Field(ge=4096, le=2**30)
    block_algorithm: Literal["xxh3-128"]
    tensors: dict[Name, ManifestTensor]
    objects: list[LayoutObject]

    @model_validator(mode="after")
    def _objects_fit_together(self) -> Self:
        keys = [layout_object.key for layout_object in self.objects]
        if len(set(keys)) != len(keys):
            raise ValueError("two objects have the same key")
        for layout_object in self.objects:
            self._check_object(layout_object)
        self._check_each_rank_holds_every_tensor_once()
        return self

    def _check_object(self, layout_object: LayoutObject) -> None:
        key = excerpt(layout_object.key)
        if layout_object.ranks[-1] >= self.world_size:
            raise ValueError(
                f"object {key!r} names rank {layout_object.ranks[-1]} of {self.world_size}"
            )
        blocks = -(-layout_object.bytes // self.block_bytes)
        if len(layout_object.blocks) != blocks:
            raise ValueError(
                f"object {key!r} of {layout_object.bytes} bytes has "
                f"{len(layout_object.blocks)} block checksums, not {blocks}"
            )
        unknown = layout_object.tensors.keys() - self.tensors.keys()
        if unknown:
            raise ValueError(
                f"object {key!r} holds tensor {excerpt(min(unknown))!r}, which is not in tensors"
            )
        for name, placed in layout_object.tensors.items():
            self._check_size(name, placed)

    def _check_size(self, name: str, placed: PlacedTensor) -> None:
        dtype = self.tensors[name].dtype
        try:
            size = tensor_bytes(dtype, placed.shape)
        except InvalidSafetensors as error:
            raise ValueError(f"tensor {excerpt(name)!r}: {error.message}") from error
        if size != placed.nbytes:
            raise ValueError(
                f"tensor {excerpt(name)!r}: {dtype} of shape {placed.shape} takes {size} bytes, "
                f"its offsets hold {placed.nbytes}"
            )

    def _check_each_rank_holds_every_tensor_once(self) -> None:
        for rank in range(self.world_size):
            names = [name for held in self.objects_of(rank) for name in held.tensors]
            if len(names) != len(self.tensors) or len(set(names)) != len(names):
                raise ValueError(
                    f"rank {rank} holds {len(names)} pieces ({len(set(names))} distinct) of "
                    f"{len(self.tensors)} tensors"
                )

    @property
    def world_size(self) -> int:
        """Ranks of one group."""
        degrees = self.parallelism
        return degrees.tensor * degrees.pipeline * degrees.expert

    @property
    def degrees(self) -> Parallelism:
        """The degrees as the rest of the runtime knows them."""
        return Parallelism(**self.parallelism.model_dump())

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all objects, headers included."""
        return sum(layout_object.bytes for layout_object in self.objects)

    def objects_of(self, rank: int) -> list[LayoutObject]:
        """The objects that ``rank`` loads, its own before the common ones."""
        held = [item for item in self.objects if rank in item.ranks]
        return sorted(held, key=lambda item: len(item.ranks))

    def rank_bytes(self, rank: int) -> int:
        """Bytes that ``rank`` loads."""
        return sum(layout_object.bytes for layout_object in self.objects_of(rank))

    def to_bytes(self) -> bytes:
        """Serialise as it stands in storage."""
        return self.to_json().encode()

    @classmethod
    def parse(cls, data: bytes, where: str = MANIFEST_KEY) -> Manifest:
        """Read and check the JSON text of a manifest.

        Args:
            data: the text, at most ``MANIFEST_BYTES_LIMIT`` bytes.
            where: how messages name it, usually its URI.

        Raises:
            LayoutError: it is no manifest, of another version, or contradicts itself.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise LayoutError(f"{where}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = excerpt(first["msg"].removeprefix("Value error, "))
    if field == "version":
        message = f"this release reads version {LAYOUT_FORMAT_VERSION} of {LAYOUT_FORMAT} only"
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"{excerpt(field)}: {message}{more}" if field else f"{message}{more}"


def read_manifest(store: ObjectStore) -> Manifest:
    """Read the manifest of the layout at the store's root.

    Raises:
        LayoutNotFound: there is none, hence no layout.
        LayoutError: it is there but cannot be used.
    """
    where = join_uri(store.uri, MANIFEST_KEY)
    try:
        data = store.read(MANIFEST_KEY, limit=MANIFEST_BYTES_LIMIT)
    except NotFound as error:
        raise LayoutNotFound(
            f"{store.uri} holds no finished layout: {error.message}; "
            "make one with `shardedmodel shard`"
        ) from error
    return Manifest.parse(data, where)


def block_spans(size: int, block_bytes: int) -> Sequence[tuple[int, int]]:
    """Half-open byte spans of an object's blocks, in order; the last may be shorter."""
    return [(start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)]
