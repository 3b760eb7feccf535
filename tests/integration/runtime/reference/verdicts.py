"""What can be said of a tensor that two parties split."""

from __future__ import annotations

SAME, OTHER = "both split, the same bits", "both split, other bits"
OURS, THEIRS = "only we split", "only transformers splits"
WHOLE, DAMAGED = "both whole, the same bits", "both whole, other bits"
