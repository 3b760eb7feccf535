"""Fused experts in MXFP4: blocks of 32 inputs, each with a scale, cut as the weight would be.

Beside ``gate_up_proj_bias``, a checkpoint has ``gate_up_proj_blocks`` (experts, outputs, blocks,
16), two numbers in a byte, and ``gate_up_proj_scales`` (experts, outputs, blocks), and the same of
``down_proj``. The rule is that of ``gate_up_proj``, of which there is no tensor; it is told of
outputs and inputs, and a cut inside of a block is refused.

Layout: OCP Microscaling Formats 1.0; gpt-oss as transformers 5 reads it, ``integrations/mxfp4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.quantisation import Quantisation
from shardedmodel_runtime.sharding.cuts import AxisCut
from shardedmodel_runtime.sharding.quantised import OUTPUT, Cut
from shardedmodel_runtime.sharding.strategies import Uncut

METHOD = "mxfp4"
MX_BLOCK_INPUTS = 32
"""Inputs that share a scale, by the specification."""
MX_BLOCK_BYTES = 16
"""What 32 numbers of 4 bits take."""

_BLOCKS, _SCALES = "_blocks", "_scales"


def fused_weight_of(name: str) -> str | None:
    """Name that the weight of a tensor of blocks or scales would have; None: it is neither."""
    for suffix in (_BLOCKS, _SCALES):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return None


def cut_microscaled(
    part: Uncut,
    tensors: Mapping[str, SourceTensor],
    quantisation: Quantisation | None,
    cut_weight: Cut,
) -> AxisCut | None:
    """Cut the blocks or the scales of one expert as ``cut_weight`` cuts its weight.

    Args:
        part: without the dimension of the experts.
        tensors: of the checkpoint.
        quantisation: of the checkpoint.
        cut_weight: what the weight's rule does.

    Raises:
        InvalidSharding: blocks and scales are not those of MXFP4, or the cut goes through a block.
    """
    method = quantisation.method if quantisation else "missing"
    if method != METHOD:
        raise _refuse(
            part,
            f"seems to hold blocks and scales, and quantization_config.quant_method is "
            f"{excerpt(method)} (known: {METHOD}); write a rule that names it",
        )
    _refuse_other_shapes(part, tensors)
    outputs, blocks = part.shape[:2]
    weight = replace(part, dtype="I8", shape=(outputs, blocks * MX_BLOCK_INPUTS))
    axis = cut_weight(weight)
    if axis is None:
        return None
    unit = 1 if axis.dim == OUTPUT else MX_BLOCK_INPUTS

    def carried(edge: int) -> int:
        if edge % unit:
            raise _refuse(
                part,
                f"has blocks of {unit} inputs, and the cut at {edge} is inside of one; use a "
                "number of tensor ranks that keeps them together, or expert parallelism",
            )
        return edge // unit

    ranges = tuple(
        tuple((carried(start), carried(stop)) for start, stop in spans) for spans in axis.ranges
    )
    return part.cut(axis.dim, ranges)


def _refuse_other_shapes(part: Uncut, tensors: Mapping[str, SourceTensor]) -> None:
    stem = fused_weight_of(part.name)
    blocks, scales = tensors.get(f"{stem}{_BLOCKS}"), tensors.get(f"{stem}{_SCALES}")
    if (
        blocks is None
        or scales is None
        or (blocks.dtype, scales.dtype) != ("U8", "U8")
        or len(scales.shape) != 3
        or blocks.shape != (*scales.shape, MX_BLOCK_BYTES)
    ):
        raise _refuse(
            part,
            f"needs U8 {_BLOCKS} of (experts, outputs, blocks, {MX_BLOCK_BYTES}) and U8 {_SCALES} "
            "of (experts, outputs, blocks) beside each other",
        )


def _refuse(part: Uncut, why: str) -> InvalidSharding:
    return InvalidSharding(f"tensor {excerpt(part.name)!r}: {why}")
