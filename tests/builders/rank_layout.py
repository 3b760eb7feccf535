"""Small layouts written by hand, in blocks of 4 KiB, so that tests of reading need no writer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
import xxhash

from shardedmodel_runtime.formats.dtypes import alignment
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.layout.manifest import BLOCK_ALGORITHM, Manifest
from shardedmodel_runtime.layout.manifest_content import (
    LayoutObject,
    ManifestCut,
    ManifestParallelism,
    ManifestSource,
)
from shardedmodel_runtime.layout.placement import ranges_of
from shardedmodel_runtime.naming import LAYOUT_FORMAT, LAYOUT_FORMAT_VERSION, MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut

BLOCK_BYTES = 4096
LAYOUT_HASH = "0123456789abcdef0123"
NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Layout:
    """A layout in a folder, and each rank's tensors as they should come back."""

    folder: Path
    manifest: Manifest
    expected: list[dict[str, torch.Tensor]]

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    def object_path(self, rank: int) -> Path:
        """The file of the rank's own tensors."""
        return self.folder / self.manifest.objects_of(rank)[0].key


def small_model(rows: int = 64) -> dict[str, torch.Tensor]:
    """A matrix that is cut by rows, a vector of another dtype that is cut, one that is not."""
    generator = torch.Generator().manual_seed(7)
    return {
        "column.weight": torch.randn(rows, 48, generator=generator),
        "column.bias": torch.randn(rows, generator=generator).to(torch.bfloat16),
        "norm.weight": torch.randn(48, generator=generator),
    }


def write_layout(
    folder: Path,
    world_size: int = 2,
    tensors: Mapping[str, torch.Tensor] | None = None,
    common: tuple[str, ...] = ("norm.weight",),
) -> Layout:
    """Cut every tensor but the ``common`` ones along dimension 0, and write the layout."""
    tensors = small_model() if tensors is None else tensors
    pieces = [
        {name: t.chunk(world_size)[rank] for name, t in tensors.items() if name not in common}
        for rank in range(world_size)
    ]
    shared = {name: tensors[name] for name in common if name in tensors}
    numbers = {name: number for number, name in enumerate(tensors)}
    objects = [
        _write_object(
            folder, f"tp-{rank:05d}-of-{world_size:05d}/part-00000.safetensors", [rank], p, numbers
        )
        for rank, p in enumerate(pieces)
    ]
    if shared:
        key, everyone = "common/part-00000.safetensors", list(range(world_size))
        objects.append(_write_object(folder, key, everyone, shared, numbers))
    manifest = Manifest(
        format=LAYOUT_FORMAT,
        version=LAYOUT_FORMAT_VERSION,
        layout_hash=LAYOUT_HASH,
        source=ManifestSource(uri="file:///checkpoint", objects=[]),
        parallelism=ManifestParallelism(**Parallelism(tensor=world_size).as_dict()),
        plan_digest="sha256:0",
        block_bytes=BLOCK_BYTES,
        block_algorithm=BLOCK_ALGORITHM,
        cuts=[
            ManifestCut.of(_cut_of(t, name in common, world_size)) for name, t in tensors.items()
        ],
        entries=list(numbers.items()),
        objects=objects,
    )
    (folder / MANIFEST_KEY).write_bytes(manifest.to_bytes())
    return Layout(folder, manifest, [piece | shared for piece in pieces])


def raw(tensor: torch.Tensor) -> bytes:
    """The tensor's bytes, in the order of its elements."""
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _cut_of(tensor: torch.Tensor, is_common: bool, world_size: int) -> TensorCut:
    dtype, shape = NAMES[tensor.dtype], tuple(tensor.shape)
    if is_common:
        return TensorCut(dtype, shape)
    sizes = [len(piece) for piece in tensor.chunk(world_size)]
    bounds = [0, *accumulate(sizes)]
    ranges = tuple((bound,) for bound in pairwise(bounds))
    return TensorCut(dtype, shape, "column", (AxisCut("tensor", 0, ranges, (0,) * world_size),))


def _write_object(
    folder: Path,
    key: str,
    ranks: list[int],
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, int],
) -> LayoutObject:
    ordered = sorted(tensors.items(), key=lambda item: -alignment(NAMES[item[1].dtype]))
    header = build_header((name, NAMES[t.dtype], tuple(t.shape)) for name, t in ordered)
    whole = header + b"".join(raw(tensor) for _, tensor in ordered)
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole)
    return LayoutObject(
        key=key,
        ranks=ranks,
        bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        blocks=[
            xxhash.xxh3_128_hexdigest(whole[start : start + BLOCK_BYTES])
            for start in range(0, len(whole), BLOCK_BYTES)
        ],
        data_start=len(header),
        tensors=ranges_of(numbers[name] for name in tensors),
    )
