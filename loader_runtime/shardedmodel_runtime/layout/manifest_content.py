"""The parts of ``manifest.json`` and what it says, unproven; ``Manifest`` is what may be used.

``docs/layout-format.md`` is the specification.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.formats.companions import COMPANION_BYTES_LIMIT, is_companion
from shardedmodel_runtime.formats.safetensors import MAX_DIMENSIONS
from shardedmodel_runtime.naming import SOURCE_FOLDER
from shardedmodel_runtime.parallelism import MAX_DEGREE, Parallelism
from shardedmodel_runtime.report import Wire
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.sharding.rules import VOCAB_MULTIPLE, Rule

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Block = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class ManifestSourceObject(Wire):
    """One object of the checkpoint that the layout was cut from."""

    key: Name
    bytes: Count
    digest: Name


class ManifestFile(Wire):
    """A small file of the checkpoint (configuration, tokenizer) that the layout keeps a copy of."""

    name: Name
    bytes: int = Field(ge=0, le=COMPANION_BYTES_LIMIT)
    sha256: Sha256

    @model_validator(mode="after")
    def _has_a_plain_name(self) -> Self:
        if not is_companion(self.name):
            raise ValueError(f"{excerpt(self.name)!r} is not the name of a file that layouts keep")
        return self

    @property
    def key(self) -> str:
        """Where it lies in the layout."""
        return f"{SOURCE_FOLDER}/{self.name}"


class ManifestSource(Wire):
    """The checkpoint that the layout was cut from."""

    uri: Name
    revision: str = ""
    model_type: str = ""
    objects: list[ManifestSourceObject]
    files: list[ManifestFile] = Field(default_factory=list)


class ManifestParallelism(Wire):
    """The degrees that the layout was cut for."""

    tensor: int = Field(ge=1, le=MAX_DEGREE)
    pipeline: int = Field(default=1, ge=1, le=MAX_DEGREE)
    expert: int = Field(default=1, ge=1, le=MAX_DEGREE)


class ManifestAxis(Wire):
    """One cut dimension of a tensor; its fields are those of ``AxisCut``."""

    over: Literal["tensor", "expert"]
    dim: Count
    ranges: list[list[tuple[Count, Count]]]
    pad: list[Count]


class ManifestCut(Wire):
    """How some tensors are cut, all alike; its fields are those of ``TensorCut``."""

    dtype: Name
    cast_from: Name | None = None
    shape: Annotated[list[Count], Field(max_length=MAX_DIMENSIONS)]
    strategy: Name
    axes: list[ManifestAxis]
    stages: list[Count] | None = None
    expert: Count | None = None
    added_once: bool = False

    @classmethod
    def of(cls, cut: TensorCut) -> ManifestCut:
        """As it stands in a manifest."""
        return cls(
            dtype=cut.dtype,
            cast_from=cut.cast_from,
            shape=list(cut.shape),
            strategy=cut.strategy,
            axes=[
                ManifestAxis(
                    over=axis.over,
                    dim=axis.dim,
                    ranges=[list(spans) for spans in axis.ranges],
                    pad=list(axis.pad),
                )
                for axis in cut.axes
            ],
            stages=None if cut.stages is None else list(cut.stages),
            expert=cut.expert,
            added_once=cut.added_once,
        )

    def to_cut(self) -> TensorCut:
        """As the rest of the runtime knows it."""
        axes = tuple(
            AxisCut(axis.over, axis.dim, tuple(map(tuple, axis.ranges)), tuple(axis.pad))
            for axis in self.axes
        )
        return TensorCut(
            self.dtype,
            tuple(self.shape),
            self.strategy,
            axes,
            self.cast_from,
            None if self.stages is None else tuple(self.stages),
            self.expert,
            self.added_once,
        )


class ManifestRule(Wire):
    """One of the user's rules; its fields are those of ``Rule``, which a plan checks by its use."""

    match: str
    strategy: str
    transposed: bool = False
    parts: list[str | int] = Field(default_factory=list)
    inner: str = ""
    uneven: Literal["refuse", "chunk"] = "refuse"
    multiple: int = VOCAB_MULTIPLE

    @classmethod
    def of(cls, rule: Rule) -> ManifestRule:
        """As it stands in a manifest."""
        return cls(**asdict(rule))

    def to_rule(self) -> Rule:
        """As the rest of the runtime knows it."""
        return Rule(**{**self.model_dump(), "parts": tuple(self.parts)})


class LayoutObject(Wire):
    """One safetensors object and what is in it; a rank needs those whose ``ranks`` hold it.

    ``tensors`` are ranges ``[first, stop)`` of the manifest's tensors; they lie in the object by
    falling alignment of their dtype and, within one alignment, in the manifest's order.
    """

    key: Name
    ranks: Annotated[list[Count], Field(min_length=1)]
    bytes: Count
    sha256: Sha256
    blocks: list[Block]
    data_start: Count
    tensors: list[tuple[Count, Count]]


class ManifestContent(Wire):
    """The whole of ``manifest.json``, as it says of itself."""

    format: Literal["shardedmodel.dev/layout"]
    version: Literal[2]
    layout_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    created_by: Annotated[str, StringConstraints(max_length=128)] = ""
    source: ManifestSource
    parallelism: ManifestParallelism
    dtype: Literal["keep", "bfloat16", "float16", "float32"] = "keep"
    plan_digest: Name
    rules: list[ManifestRule] = Field(default_factory=list)
    block_bytes: int = Field(ge=4096, le=2**30)
    block_algorithm: Literal["xxh3-128"]
    cuts: list[ManifestCut]
    entries: list[tuple[Name, Count]] = Field(alias="tensors")
    objects: list[LayoutObject]

    @property
    def world_size(self) -> int:
        """Ranks of one group."""
        return self.degrees.world_size

    @cached_property
    def degrees(self) -> Parallelism:
        """The degrees as the rest of the runtime knows them."""
        return Parallelism(**self.parallelism.model_dump())

    @cached_property
    def distinct_cuts(self) -> tuple[TensorCut, ...]:
        """The cuts that differ, by the number that ``entries`` give them."""
        return tuple(cut.to_cut() for cut in self.cuts)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tensors by their number."""
        return tuple(name for name, _ in self.entries)
