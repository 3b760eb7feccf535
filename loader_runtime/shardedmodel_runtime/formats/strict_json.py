"""JSON objects from strangers: what Python's parser lets pass silently is refused."""

from __future__ import annotations

import json
from typing import Any

from shardedmodel_runtime.errors import excerpt


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object in which no key stands twice.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deep, a duplicate key, or not an object.
    """
    try:
        # Decoded here, because the parser would take bytes for UTF-16 or UTF-32 where they fit.
        fields = json.loads(data.decode(), object_pairs_hook=_no_duplicates)
    except RecursionError as e:
        raise ValueError("not valid JSON: nested too deep") from e
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from e
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"key {excerpt(key)!r} stands twice")
        fields[key] = value
    return fields
