"""A rank's tensors as DTensors: the layout's cut, said in torch's words.

A DTensor knows equal cuts along a dimension, those of ``torch.chunk``, and nothing else: not the
pad of a vocabulary, not the halves of a packed weight, not heads that several ranks hold.
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.loading.views import TORCH_DTYPES
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut


def to_dtensors(shard: LoadedShard, mesh: DeviceMesh) -> dict[str, DTensor]:
    """Wrap a rank's tensors; each keeps its memory.

    Args:
        shard: what the rank holds.
        mesh: its tensor-parallel ranks in their order, one-dimensional.

    Returns:
        Each tensor of the rank: ``Shard(dim)`` where it is cut, else ``Replicate()``.

    Raises:
        ConfigurationError: the mesh has another size than the layout's tensor parallelism, or this
            process another place in it than the shard, or a tensor is cut in a way that a DTensor
            cannot express, or of a dtype that torch lacks.
    """
    degree = shard.manifest.parallelism.tensor
    if mesh.ndim != 1 or mesh.size() != degree:
        raise ConfigurationError(
            f"mesh: its shape is {list(mesh.shape)}, and the layout was cut for {degree} tensor "
            f"ranks; use a one-dimensional mesh of {degree}"
        )
    place = shard.manifest.degrees.coordinate(shard.rank).tensor
    if mesh.get_local_rank() != place:
        raise ConfigurationError(
            f"shard: is that of tensor rank {place}, and this process is {mesh.get_local_rank()} "
            "of the mesh; load the shard of this process's own rank"
        )
    cuts = shard.manifest.tensors
    placements = {name: _placement(name, cuts[name]) for name in shard.state_dict}
    return {
        name: _wrap(tensor, cuts[name], mesh, placements[name])
        for name, tensor in shard.state_dict.items()
    }


def _placement(name: str, cut: TensorCut) -> Placement:
    if cut.dtype not in TORCH_DTYPES:
        raise _inexpressible(name, f"torch has no elements of {excerpt(cut.dtype)}")
    if cut.axis("expert") is not None:
        raise _inexpressible(name, "it is cut over expert ranks")
    axis = cut.axis("tensor")
    if axis is None:
        return Replicate()
    if any(axis.pad):
        raise _inexpressible(name, "it is padded")
    if axis.ranges != _even(axis, cut.shape[axis.dim]):
        raise _inexpressible(name, f"{cut.strategy!r} gives its ranks other than equal parts")
    return Shard(axis.dim)


def _even(axis: AxisCut, size: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The ranges that ``torch.chunk`` would give, which are those of a DTensor."""
    ranks = len(axis.ranges)
    step = -(-size // ranks)
    spans = [(min(rank * step, size), min((rank + 1) * step, size)) for rank in range(ranks)]
    return tuple((span,) if span[0] < span[1] else () for span in spans)


def _wrap(tensor: torch.Tensor, cut: TensorCut, mesh: DeviceMesh, placement: Placement) -> DTensor:
    shape = torch.Size(cut.shape)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        tensor, mesh, [placement], run_check=False, shape=shape, stride=stride
    )


def _inexpressible(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"tensor {excerpt(name)!r}: {reason}, which a DTensor cannot express; "
        "use the state_dict itself"
    )
