"""Ranks save what they hold: each its own objects, and one of them the manifest.

The group is torch's default process group, or one that is given. What ranks have to tell each
other are a few kilobytes of JSON, which go through it as bytes: nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from shardedmodel_runtime.errors import (
    ConfigurationError,
    GroupError,
    NotFound,
    ShardedModelError,
    excerpt,
)
from shardedmodel_runtime.layout.companions import read_companion
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.manifest_content import (
    LayoutObject,
    ManifestSource,
    ManifestSourceObject,
)
from shardedmodel_runtime.layout.objects import PlannedObject, plan_objects
from shardedmodel_runtime.layout.placement import PlacedTensor
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.loading.views import TORCH_DTYPES
from shardedmodel_runtime.naming import MANIFEST_KEY, layout_hash
from shardedmodel_runtime.rank.group import all_gather_bytes
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore

STAGING_BYTES = 16 * 1024 * 1024
"""Copied to host memory at a time, of tensors on a device or in another order of elements, so that
no tensor is there twice."""

Group = dist.ProcessGroup
"""A group of ranks; torch's default one where it is None."""


class SavingFailed(GroupError):
    """Another rank could not save its part; nothing was published."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What one rank tells the others: entries of its objects, or why it has none."""

    objects: tuple[LayoutObject, ...] = ()
    failure: str = ""

    def to_bytes(self) -> bytes:
        objects = [json.loads(item.to_json()) for item in self.objects]
        return json.dumps({"objects": objects, "failure": self.failure}).encode()

    @classmethod
    def parse(cls, data: bytes) -> _Told:
        fields = json.loads(data)
        objects = tuple(LayoutObject.model_validate(item) for item in fields["objects"])
        return cls(objects, fields["failure"])


def save_from_ranks(
    state_dict: Mapping[str, torch.Tensor],
    layout: ObjectStore,
    loaded: ObjectStore,
    manifest: Manifest,
    *,
    group: Group | None = None,
) -> Manifest:
    """Save every rank's shard as a new layout, cut like the one that it was loaded from.

    All ranks of the group call it. Each writes its own objects in bounded memory, the first of
    those that hold the same writes it for them, and rank 0 commits when all are written.

    Args:
        state_dict: the rank's tensors by name, in the shapes and dtypes of the loaded shard, on
            any device; tensors of sub-byte dtypes are their raw bytes (one-dimensional ``uint8``).
        layout: the new layout's folder; any name, as long as no layout is there yet.
        loaded: the folder of the layout that the shard was loaded from, for its small files.
        manifest: the manifest of that layout.
        group: the group of the layout's ranks; None: torch's default one.

    Returns:
        The new layout's manifest. What it names as its source is itself: the checkpoint that
        the shard was cut from once holds other weights.

    Raises:
        ConfigurationError: the group has another size than the layout, a tensor is missing,
            unknown, or of another shape or dtype, pad is not zero, a layout is there already, or
            there is no process group.
        SavingFailed: another rank could not save its part.
        StorageError: the storage did not take this rank's part.
    """
    if group is None and not dist.is_initialized():
        raise ConfigurationError(
            "group: there is no process group, and the ranks of a layout save it together; start "
            "them by torchrun, and call load_group or torch.distributed.init_process_group before"
        )
    return _Saving(state_dict, layout, loaded, manifest, group).run()


class _Saving:
    """One save of one rank."""

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor],
        layout: ObjectStore,
        loaded: ObjectStore,
        manifest: Manifest,
        group: Group | None,
    ) -> None:
        self._state_dict = state_dict
        self._layout = layout
        self._loaded = loaded
        self._group = group
        self._rank = dist.get_rank(group)
        self._loaded_manifest = manifest
        self._degrees = manifest.degrees
        self._plan = ShardingPlan(
            manifest.degrees,
            manifest.source.model_type,
            manifest.tensors,
            dtype=manifest.dtype,
            rules=manifest.user_rules,
        )

    def run(self) -> Manifest:
        size = dist.get_world_size(self._group)
        if size != self._degrees.world_size:  # all ranks see it, so none waits for another
            raise ConfigurationError(
                f"group: has {size} ranks, the layout was cut for {self._degrees.world_size}"
            )
        planned = plan_objects(self._plan)
        self._agree(lambda: self._check(planned))
        written = self._agree(lambda: self._write(planned))
        self._agree(lambda: self._commit(planned, written))
        return read_manifest(self._layout)

    def _agree(self, action: Callable[[], tuple[LayoutObject, ...]]) -> list[LayoutObject]:
        """Do one step, and go on only where every rank could.

        Returns:
            The entries that all ranks told, in the order of ranks.
        """
        error: ShardedModelError | None = None
        told = _Told()
        try:
            told = _Told(action())
        except ShardedModelError as problem:
            error, told = problem, _Told(failure=f"{problem.reason}: {problem.message}")
        answers = [_Told.parse(data) for data in all_gather_bytes(told.to_bytes(), self._group)]
        if error is not None:
            raise error
        for rank, answer in enumerate(answers):
            if answer.failure:
                raise SavingFailed(f"rank {rank} could not save its part: {answer.failure}")
        return [item for answer in answers for item in answer.objects]

    def _check(self, planned: Sequence[PlannedObject]) -> tuple[LayoutObject, ...]:
        """See that the state is what the plan says, before anything is written."""
        if self._rank == 0:
            require_no_layout(self._layout)
        placed = {
            piece.name: piece
            for item in planned
            if self._rank in item.ranks
            for piece in item.placed(self._plan.cuts)
        }
        for name in placed.keys() ^ self._state_dict.keys():
            kind = "is missing" if name in placed else "is none of this rank's"
            raise ConfigurationError(f"state_dict: tensor {excerpt(name)!r} {kind}")
        for piece in placed.values():
            check_tensor(piece, self._state_dict[piece.name])
        return ()

    def _write(self, planned: Sequence[PlannedObject]) -> tuple[LayoutObject, ...]:
        own = [item for item in planned if item.ranks[0] == self._rank]
        saver = CheckpointSaver(self._layout, self._plan, "", objects=own)
        for item in own:
            with saver.writing([item]) as sink:
                for name in item.names:
                    for chunk in host_chunks(self._state_dict[name]):
                        sink.write(self._rank, name, chunk)
        return tuple(saver.saved)

    def _commit(
        self, planned: Sequence[PlannedObject], written: Sequence[LayoutObject]
    ) -> tuple[LayoutObject, ...]:
        if self._rank == 0:
            name = layout_hash(
                source_digests={item.key: f"sha256:{item.sha256}" for item in written},
                parallelism=self._degrees,
                dtype=self._plan.dtype,
                plan_digest=self._plan.digest(),
            )
            saver = CheckpointSaver(self._layout, self._plan, name, objects=planned)
            saver.take(written)
            saver.commit(self._source(written))
        return ()

    def _source(self, written: Sequence[LayoutObject]) -> ManifestSource:
        """The new layout is its own source; the small files come from the loaded one."""
        files = self._loaded_manifest.source.files
        for file in files:
            self._layout.write(file.key, read_companion(self._loaded, file))
        return ManifestSource(
            uri=self._layout.uri,
            model_type=self._plan.model_type,
            objects=[
                ManifestSourceObject(key=item.key, bytes=item.bytes, digest=f"sha256:{item.sha256}")
                for item in written
            ],
            files=files,
        )


def require_no_layout(layout: ObjectStore) -> None:
    """See that nothing would be overwritten.

    Raises:
        ConfigurationError: there is a layout already.
    """
    try:
        layout.read_head(MANIFEST_KEY, 0)
    except NotFound:
        return
    raise ConfigurationError(f"{layout.uri} holds a layout already; save under another name")


def check_tensor(placed: PlacedTensor, tensor: torch.Tensor) -> None:
    """Hold a rank's tensor against what the layout says of its piece.

    Raises:
        ConfigurationError: its dtype or shape differs, or its pad is not zero.
    """
    dtype = TORCH_DTYPES.get(placed.cut.dtype)
    expected = (torch.uint8, (placed.nbytes,)) if dtype is None else (dtype, placed.piece.shape)
    if (tensor.dtype, tuple(tensor.shape)) != expected:
        raise ConfigurationError(
            f"state_dict: tensor {excerpt(placed.name)!r} is {tensor.dtype} of shape "
            f"{list(tensor.shape)}, not {expected[0]} of {list(expected[1])}"
        )
    for part in placed.piece.slices:
        if part.pad and dtype is not None:
            pad = tensor.narrow(part.dim, part.rows, part.pad)
            if any(np.frombuffer(chunk, np.uint8).any() for chunk in host_chunks(pad)):
                raise ConfigurationError(
                    f"state_dict: tensor {excerpt(placed.name)!r} is not zero from index "
                    f"{part.rows} on in dimension {part.dim}; that is pad, and no weight"
                )


def host_chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """A tensor's bytes, row-major, in pieces of at most ``STAGING_BYTES`` of host memory.

    Contiguous tensors in host memory are not copied.
    """
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.is_contiguous():
        for part in tensor.reshape(-1).view(torch.uint8).split(STAGING_BYTES):  # type: ignore[no-untyped-call]
            yield part.cpu().numpy().data
        return
    row_bytes = tensor[0].numel() * tensor.element_size()
    rows = STAGING_BYTES // max(row_bytes, 1)
    for slab in tensor.split(rows) if rows else tensor.unbind():  # type: ignore[no-untyped-call]
        yield from host_chunks(slab.contiguous() if rows else slab)
