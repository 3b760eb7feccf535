"""What the API server's refusals mean: each becomes an error of the tree in ``errors``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kubernetes.client.exceptions import ApiException

from shardedmodel_operator.errors import (
    ClusterAccessDenied,
    ClusterError,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from shardedmodel_runtime.errors import excerpt

_BY_MESSAGE: Mapping[str, type[ClusterError]] = {
    # How servers before 1.26 answer an applied field that they do not know.
    "failed to create typed patch object": ObjectRejected,
    # No ClusterIP is left for a Service: a limit of the cluster like any quota.
    "range is full": ClusterAccessDenied,
}
"""Refusals that servers send with status 500, as if they might pass by themselves."""

_BY_STATUS: Mapping[int, type[ClusterError]] = {
    400: ObjectRejected,
    401: ClusterAccessDenied,
    403: ClusterAccessDenied,
    404: ObjectNotFound,
    409: ObjectConflict,
    412: ObjectConflict,
    413: ObjectRejected,
    415: ObjectRejected,
    422: ObjectRejected,
}


def refusal(error: ApiException, action: str) -> ClusterError:
    """Give the error of ours for an answer that is not 2xx.

    Args:
        error: the answer; status 0 is a failed TLS handshake.
        action: what was asked, for the message.
    """
    status, message = error.status or 0, _server_message(error)
    told = (kind for text, kind in _BY_MESSAGE.items() if text in message)
    kind = next(told, _BY_STATUS.get(status, ClusterUnavailable))
    return kind(f"{action}: {message} (HTTP {status})", status)


def _server_message(error: ApiException) -> str:
    """The sentence in the server's ``Status`` object, else what there is."""
    body = error.body.decode(errors="replace") if error.body else error.reason or ""
    try:
        message = str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        message = body
    # Twice the usual: an admission controller's refusal names field and rule in one sentence.
    return excerpt(message, 400)
