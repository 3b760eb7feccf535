"""Rules: which tensors, by name, are cut by which strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VOCAB_MULTIPLE = 64
"""Rows that a padded vocabulary is a multiple of (vLLM, ``DEFAULT_VOCAB_PADDING_SIZE``)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name matches a glob are cut by a strategy.

    Args:
        match: shell-style pattern of full parameter names, such as ``*.q_proj.weight``.
        strategy: a name in ``STRATEGIES``.
        transposed: the weight is (in, out), as in GPT-2's ``Conv1D``: column cuts the last
            dimension, row the one before it.
        parts: of ``packed``, the tensors that lie one after the other along the cut dimension:
            ``query``, ``key`` and ``value`` (cut by whole heads), or whole numbers (relative
            sizes, each part cut evenly). Empty: two equal halves, as ``gate_up`` has them.
        inner: of ``experts``, the strategy inside one expert, over the tensor ranks.
        uneven: what becomes of a dimension that the ranks do not divide: ``refuse`` it, or cut it
            by the rule of ``torch.chunk`` and DTensor (equal chunks rounded up, the last ones
            smaller or empty).
        multiple: of ``vocab``, the padded size is a multiple of it.
    """

    match: str
    strategy: str
    transposed: bool = False
    parts: tuple[str | int, ...] = ()
    inner: str = ""
    uneven: Literal["refuse", "chunk"] = "refuse"
    multiple: int = VOCAB_MULTIPLE
