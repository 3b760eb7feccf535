"""Quantised weights: what lies beside or instead of a weight is cut with it, or the plan refuses.

A rule names a module's ``weight``. A quantised checkpoint has that weight packed (``qweight`` of
GPTQ and AWQ, ``weight_packed`` of compressed-tensors) or scaled (``weight_scale``,
``weight_scale_inv``), with zero points and group numbers. The weight's cut, in outputs and inputs,
is carried over to each of them by what one of its indices stands for: one output, the outputs
packed into one integer, or the inputs of one group. A cut inside such a unit is refused.

Layouts: AutoGPTQ and AutoAWQ as transformers reads them; compressed-tensors 0.12, ``compressors``;
transformers 5, ``integrations/finegrained_fp8``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.formats.quantisation import Quantisation
from shardedmodel_runtime.sharding.cuts import AxisCut, Range
from shardedmodel_runtime.sharding.strategies import Uncut

PACKED_BITS = 32
"""GPTQ, AWQ and compressed-tensors pack weights into 32-bit integers."""
PACKING_METHODS = ("gptq", "awq")
SCALING_METHODS = ("fp8", "compressed-tensors")

OUTPUT, INPUT = 0, 1
"""The dimensions of a weight that is not packed."""

_ORDER: Mapping[str, tuple[int, ...]] = {
    "qweight": (INPUT, OUTPUT),
    "qzeros": (INPUT, OUTPUT),
    "scales": (INPUT, OUTPUT),
    "g_idx": (INPUT,),
    "weight_packed": (OUTPUT, INPUT),
    "weight_scale": (OUTPUT, INPUT),
    "weight_scale_inv": (OUTPUT, INPUT),
    "weight_zero_point": (OUTPUT, INPUT),
    "weight_g_idx": (INPUT,),
}
"""What the dimensions of each companion stand for."""
_SCALES = ("scales", "weight_scale", "weight_scale_inv")
_SCALARS = ("input_scale", "output_scale", "weight_global_scale", "input_global_scale")
"""Companions of one element, which every rank needs."""
_WHOLE = ("weight_shape",)
"""What tells of the whole weight, on every rank."""

COMPANIONS = frozenset({*_ORDER, *_SCALARS, *_WHOLE})

Cut = Callable[[Uncut], AxisCut | None]


def weight_of(name: str) -> str | None:
    """Name of the weight that a companion belongs to; None: the name is not a companion's."""
    module, _, kind = name.rpartition(".")
    return f"{module}.weight" if module and kind in COMPANIONS else None


@dataclass(frozen=True, slots=True)
class Module:
    """A quantised module.

    Args:
        name: of the module.
        tensors: of the checkpoint.
        quantisation: of the checkpoint.
    """

    name: str
    tensors: Mapping[str, SourceTensor]
    quantisation: Quantisation | None

    def cut(self, companion: Uncut, cut_weight: Cut) -> AxisCut | None:
        """Cut a companion as ``cut_weight`` cuts the weight.

        Args:
            companion: one of the module's tensors beside ``weight`` and ``bias``.
            cut_weight: what the weight's rule does.

        Raises:
            InvalidSharding: how they belong together is not known for sure, or the cut goes
                through what belongs together.
        """
        kind = companion.name.rpartition(".")[2]
        outputs, inputs = self._weight_shape(companion)
        weight = replace(companion, name=f"{self.name}.weight", dtype="I8", shape=(outputs, inputs))
        axis = cut_weight(weight)
        if axis is None or kind in _WHOLE:
            return None
        if kind in _SCALARS:
            if max(companion.shape, default=1) > 1:
                raise _refuse(companion, "has more than one element, and it is not known of what")
            return None
        if any(axis.pad):
            raise _refuse(companion, "would need a pad, which has no scale")
        if axis.dim == INPUT and self.quantisation and self.quantisation.act_order:
            raise _refuse(
                companion,
                "belongs to inputs in the order of their activation (desc_act): those of one "
                "group are spread over all ranks; use 'replicate' or 'column'",
            )
        return self._carry_over(companion, _ORDER[kind], axis, (outputs, inputs)[axis.dim])

    def _carry_over(
        self, companion: Uncut, order: tuple[int, ...], axis: AxisCut, length: int
    ) -> AxisCut | None:
        """The same cut, in the companion's units."""
        shape, kind = companion.shape, companion.name.rpartition(".")[2]
        if kind in _SCALES and max(shape, default=1) == 1:
            return None  # one scale for all
        if len(shape) == 1 and order[0] == OUTPUT:
            order = (OUTPUT,)
        if len(shape) != len(order):
            raise _refuse(companion, f"has {len(shape)} dimensions, not {len(order)}")
        if axis.dim not in order:
            return None
        dim = order.index(axis.dim)
        if shape[dim] == 1 and (kind in _SCALES or (kind == "qzeros" and axis.dim == INPUT)):
            return None  # one for all of them
        unit = self._unit(companion, axis.dim, shape[dim], length)

        def carried(edge: int) -> int:
            if edge == length:
                return shape[dim]
            if edge % unit:
                raise _refuse(
                    companion,
                    f"has one index for {unit} of the weight's {length}, and the cut at {edge} is "
                    "inside of one; use a number of ranks that keeps them together, or 'replicate'",
                )
            return edge // unit

        ranges = tuple(
            tuple((carried(start), carried(stop)) for start, stop in spans) for spans in axis.ranges
        )
        return companion.cut(dim, ranges)

    def _unit(self, companion: Uncut, side: int, size: int, length: int) -> int:
        """How many outputs or inputs one index of a companion stands for."""
        known = self.quantisation or Quantisation("")
        pack = PACKED_BITS // known.bits if known.bits and PACKED_BITS % known.bits == 0 else 0
        block = known.block[side] if known.block else 0
        for unit in (1, known.group_size if side == INPUT else 0, block, pack):
            if unit and -(-length // unit) == size:
                return unit
        raise _refuse(
            companion,
            f"has {size} indices for {length} of its weight, which neither the group, the block "
            "nor the packing of quantization_config explain; write a rule that names it",
        )

    def _weight_shape(self, companion: Uncut) -> Range:
        """Outputs and inputs of the weight as if it were not packed."""
        known = self.quantisation
        if known is None or known.method not in (*PACKING_METHODS, *SCALING_METHODS):
            method = excerpt(known.method) if known else "missing"
            raise _refuse(
                companion,
                f"belongs to a quantised weight, and quantization_config.quant_method is {method} "
                f"(known: {', '.join((*PACKING_METHODS, *SCALING_METHODS))}); write a rule that "
                "names it",
            )
        pack = PACKED_BITS // known.bits if known.bits and PACKED_BITS % known.bits == 0 else 0
        if known.method == "gptq" and pack:
            rows, columns = self._shape(companion, "qweight")
            return columns, rows * pack
        if known.method == "awq" and pack:
            rows, columns = self._shape(companion, "qweight")
            return columns * pack, rows
        if known.method in SCALING_METHODS:
            if f"{self.name}.weight_packed" in self.tensors:
                if not pack:
                    raise _refuse(companion, f"is packed with {known.bits} bits, which is unknown")
                rows, columns = self._shape(companion, "weight_packed")
                return rows, columns * pack
            return self._shape(companion, "weight")
        raise _refuse(companion, f"is packed with {known.bits} bits, which do not divide 32")

    def _shape(self, companion: Uncut, kind: str) -> Range:
        tensor = self.tensors.get(f"{self.name}.{kind}")
        if tensor is None or len(tensor.shape) != 2:
            raise _refuse(companion, f"needs a two-dimensional {kind} beside it")
        return tensor.shape[0], tensor.shape[1]


def is_known(quantisation: Quantisation | None) -> bool:
    """Whether it is known how weights lie in a checkpoint."""
    return quantisation is None or quantisation.method in (*PACKING_METHODS, *SCALING_METHODS)


def refuse_unknown_packing(tensor: SourceTensor, quantisation: Quantisation) -> None:
    """See that a weight is not packed, where it is not known how it would be.

    Raises:
        InvalidSharding: it holds small numbers, not floating-point ones of 16 bits or more.
    """
    if DTYPE_BITS[tensor.dtype] > 8:
        return
    known = (*PACKING_METHODS, *SCALING_METHODS)
    raise InvalidSharding(
        f"tensor {excerpt(tensor.name)!r} of {tensor.dtype}: quantization_config.quant_method "
        f"{excerpt(quantisation.method)!r} is not known (known: {', '.join(known)}), nor how its "
        "weights may be cut; write rules that name them"
    )


def _refuse(companion: Uncut, why: str) -> InvalidSharding:
    return InvalidSharding(
        f"tensor {excerpt(companion.name)!r} of shape {list(companion.shape)}: {why}"
    )
