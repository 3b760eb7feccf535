"""What is sent to the API server, in the form that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_empty_texts(value: Any) -> Any:
    """Leave empty strings out, as Kubernetes' own types do (``omitempty``).

    An API server 1.20 that was built with Go 1.19 takes an empty string of a custom resource for
    null and refuses it: its schema validation compares with the zero value by address.
    """
    if isinstance(value, Mapping):
        return {k: without_empty_texts(v) for k, v in value.items() if v != ""}
    if isinstance(value, list):
        return [without_empty_texts(item) for item in value]
    return value
