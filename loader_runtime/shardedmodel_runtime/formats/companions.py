"""Which small files beside the weights belong to a checkpoint: configuration and tokenizer."""

from __future__ import annotations

import re

from shardedmodel_runtime.formats.hf import INDEX_KEY

COMPANION_BYTES_LIMIT = 64 * 1024 * 1024
"""Twice the largest published tokenizer; what is larger is not a companion."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}\.(json|jinja|model|txt)")
"""Configurations, chat templates, and tokenizers of all kinds. Code is not copied."""


def is_companion(name: str) -> bool:
    """Whether a file of this name is kept; the index is not, as it names files of the weights."""
    return bool(_NAME.fullmatch(name)) and name != INDEX_KEY
