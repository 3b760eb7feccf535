"""JSON objects from strangers: what Python's parser lets pass silently is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from shardedmodel_runtime.errors import excerpt


def parse_object(
    data: bytes | memoryview, compact: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Parse a JSON object in which no key stands twice.

    Args:
        data: its text.
        compact: gives what stands for an object within the text, as soon as that is read: a
            header of 600,000 entries then never is so many dictionaries.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deep, a duplicate key, or not an object.
    """

    def take(pairs: list[tuple[str, Any]]) -> Any:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError(f"key {excerpt(_first_twice(pairs))!r} stands twice")
        return fields if compact is None else compact(fields)

    try:
        # Decoded here, because the parser would take bytes for UTF-16 or UTF-32 where they fit.
        fields = json.loads(str(data, "utf-8"), object_pairs_hook=take)
    except RecursionError as e:
        raise ValueError("not valid JSON: nested too deep") from e
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from e
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    return next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
