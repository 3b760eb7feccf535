"""Names that follow from content: hashes of requests and layouts, and the keys of objects.

Equal inputs give equal names, so work that is done is found again, by whoever asks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from shardedmodel_runtime.parallelism import Parallelism

LAYOUT_FORMAT = "shardedmodel.dev/layout"
LAYOUT_FORMAT_VERSION = 2
"""Raised when readers of the former version could misread what is written; part of every hash."""

MANIFEST_KEY = "manifest.json"
COMMON_FOLDER = "common"
SOURCE_FOLDER = "source"
"""Of the small files that a layout keeps of its checkpoint."""

_LAYOUT_KEY = re.compile(
    rf"(?:{COMMON_FOLDER}|(?:tp|pp|ep)-[a-z0-9.-]+)/part-\d{{5,}}\.safetensors(?:\.json)?"
    rf"|{SOURCE_FOLDER}/[^/]+"
)
"""Objects, their records and the checkpoint's small files; the manifest is not among them."""

HASH_LENGTH = 20
"""Hex digits kept of a SHA-256: 80 bits, beyond accident among a store's layouts, and short
enough for a Kubernetes label (63)."""


def canonical_json(value: Any) -> bytes:
    """Serialise to the one JSON text that equal values share (sorted keys, no spaces, UTF-8)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def content_hash(value: Any) -> str:
    """The first ``HASH_LENGTH`` hex digits of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:HASH_LENGTH]


def request_hash(
    *,
    source_uri: str,
    revision: str,
    endpoint_url: str,
    storage_uri: str,
    storage_endpoint_url: str,
    parallelism: Parallelism,
    dtype: str,
    rules: Sequence[Mapping[str, Any]],
) -> str:
    """Name what a spec asks for, without reading any storage (names the pre-shard Job)."""
    return content_hash(
        {
            "version": LAYOUT_FORMAT_VERSION,
            "source": [endpoint_url, source_uri.rstrip("/"), revision],
            "storage": [storage_endpoint_url, storage_uri.rstrip("/")],
            "parallelism": parallelism.as_dict(),
            "dtype": dtype,
            "rules": [dict(rule) for rule in rules],
        }
    )


def layout_hash(
    *,
    source_digests: Mapping[str, str],
    parallelism: Parallelism,
    dtype: str,
    plan_digest: str,
) -> str:
    """Name a layout by what it holds: the source's digests and how they are cut.

    Args:
        source_digests: digest (``etag:…``, ``stat:…``) of each source object by its key.
        parallelism: the degrees that the plan was made for.
        dtype: ``keep``, or the dtype that tensors are cast to.
        plan_digest: digest of the whole plan, hence of the rules that led to it.
    """
    return content_hash(
        {
            "version": LAYOUT_FORMAT_VERSION,
            "source": dict(source_digests),
            "parallelism": parallelism.as_dict(),
            "dtype": dtype,
            "plan": plan_digest,
        }
    )


def is_layout_name(name: str) -> bool:
    """Whether a folder's name is one that layouts are given, and not somebody's own."""
    return re.fullmatch(f"[0-9a-f]{{{HASH_LENGTH}}}", name) is not None


def is_layout_key(key: str) -> bool:
    """Whether a key is one that what lies below a layout's folders is given."""
    return _LAYOUT_KEY.fullmatch(key) is not None


def folder_of(
    parallelism: Parallelism,
    tensor: int | None = None,
    stages: Sequence[int] | None = None,
    expert: int | None = None,
) -> str:
    """Folder of what only ranks with these coordinates hold: ``tp-00003-of-00008[.pp-…][.ep-…]``.

    Args:
        parallelism: the degrees.
        tensor: the tensor rank; None: all of them hold it.
        stages: the pipeline stages, ascending; None: all of them.
        expert: the expert rank; None: all of them.
    """
    parts = []
    if tensor is not None:
        parts.append(f"tp-{tensor:05d}-of-{parallelism.tensor:05d}")
    if stages is not None:
        listed = "-and-".join(f"{stage:05d}" for stage in stages)
        parts.append(f"pp-{listed}-of-{parallelism.pipeline:05d}")
    if expert is not None:
        parts.append(f"ep-{expert:05d}-of-{parallelism.expert:05d}")
    return ".".join(parts) or COMMON_FOLDER


def part_key(folder: str, part: int = 0) -> str:
    """Key of one safetensors object, relative to the layout."""
    return f"{folder}/part-{part:05d}.safetensors"
