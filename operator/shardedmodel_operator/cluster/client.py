"""The operator's hands: a few generic calls to the API server, each counted and bounded in time.

Calls block and are meant for threads. Answers come as plain JSON objects, errors as the branch
of ``errors.ClusterError``. What the operator wants is sent by server-side apply, so fields that
others set stay theirs; the status of a model is replaced whole, since it has one writer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from shardedmodel_operator import __version__
from shardedmodel_operator.cluster.answers import refusal
from shardedmodel_operator.cluster.bodies import without_empty_texts
from shardedmodel_operator.cluster.calls import NO_ANSWER, ApiCall, target_of
from shardedmodel_operator.cluster.configuration import load_configuration
from shardedmodel_operator.cluster.resources import (
    MODELS,
    OPTIONAL,
    WATCHED,
    Object,
    Resource,
    resource_of,
)
from shardedmodel_operator.errors import ClusterUnavailable, ObjectConflict, ObjectNotFound
from shardedmodel_runtime.errors import excerpt

FIELD_MANAGER = "shardedmodel-operator"
"""Name under which applied fields are owned; a change would leave the former one's behind."""

USER_AGENT = f"{FIELD_MANAGER}/{__version__}"
"""Who calls, in the API server's audit log."""

CONNECT_SECONDS = 5.0
"""Time to connect: the server is in the same cluster."""
READ_SECONDS = 30.0
"""Time to wait for an answer: the server itself gives up on a mutating request after 34 s or
60 s by default, and a worker must not hang on a dead connection."""

READING = frozenset({"get", "list"})
"""Verbs that change nothing."""

LIST_PAGE = 100
"""Objects per page of a list. A page is held whole while it is parsed, and at the start all kinds
are listed at a time: with the 500 of ``kubectl`` a start on 1,000 models peaked 50 MiB higher."""


class Cluster:
    """Calls to one API server; safe to use from several threads."""

    def __init__(
        self, api: kubernetes.client.ApiClient, read_seconds: float = READ_SECONDS
    ) -> None:
        """Call through ``api``, waiting ``read_seconds`` for each answer."""
        self._api = api
        self._read_seconds = read_seconds
        self.calls: Counter[ApiCall] = Counter()
        """Calls so far."""
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext
        """Surrounds every call that may change something; it raises where that is not allowed."""

    @classmethod
    def connect(cls) -> Cluster:
        """Connect as ``load_configuration`` says.

        Raises:
            ClusterUnavailable: there is neither.
        """
        return cls(kubernetes.client.ApiClient(load_configuration()))

    def with_patience(self, read_seconds: float) -> Cluster:
        """The same server and the same count, unguarded, with another time for an answer."""
        other = Cluster(self._api, read_seconds)
        other.calls = self.calls
        return other

    def watched(self) -> tuple[Resource, ...]:
        """The kinds to watch on this server: all that it must have, and those that it may.

        Raises:
            ClusterError: see ``errors``.
        """
        return (*WATCHED, *(resource for resource in OPTIONAL if self._serves(resource)))

    def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """One object as it is now; None when there is none.

        Raises:
            ClusterError: see ``errors``.
        """
        try:
            return self._call("get", "GET", resource.path(namespace, name), {})
        except ObjectNotFound:
            return None

    def apply(self, manifest: Object) -> dict[str, Any]:
        """Server-side apply ``manifest`` and return the object as it is now.

        Raises:
            ClusterError: see ``errors``.
        """
        metadata = manifest["metadata"]
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        path = resource.path(metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._call("patch", "PATCH", path, query, manifest, "application/apply-patch+yaml")

    def replace_status(self, model: Object, status: Object) -> dict[str, Any]:
        """Replace the whole status of ``model``: what is not in ``status`` disappears.

        A JSON patch on the status subresource: it cannot touch another field, needs no knowledge
        of the former status, and its test keeps it from a model that was made anew under the
        same name.

        Raises:
            ObjectRejected: the name belongs to another object by now, or the schema refuses.
            ClusterError: see ``errors``.
        """
        metadata = model["metadata"]
        path = MODELS.path(metadata["namespace"], metadata["name"], "status")
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
            {"op": "add", "path": "/status", "value": without_empty_texts(status)},
        ]
        query = {"fieldManager": FIELD_MANAGER}
        return self._call("patch", "PATCH", path, query, operations, "application/json-patch+json")

    def set_finalizer(self, model: Object, finalizer: str, present: bool) -> dict[str, Any]:
        """Add a finalizer to a model, or take it away; those of others stay.

        Raises:
            ObjectConflict: the model has changed meanwhile.
            ClusterError: see ``errors``.
        """
        metadata = model["metadata"]
        others = [f for f in metadata.get("finalizers") or [] if f != finalizer]
        changed = {
            "finalizers": [*others, finalizer] if present else others,
            "resourceVersion": metadata["resourceVersion"],
        }
        return self.merge(MODELS, metadata["namespace"], metadata["name"], {"metadata": changed})

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this object (by uid), and what it owns with it.

        An object that is gone already, or whose name belongs to another by now, is no error:
        what was to be deleted is not there.

        Raises:
            ClusterError: see ``errors``.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # A Job's default is to orphan its pods.
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            self._call("delete", "DELETE", resource.path(namespace, name), {}, options)
        except (ObjectNotFound, ObjectConflict):
            return

    def create(self, resource: Resource, body: Object) -> dict[str, Any]:
        """Create an object that must not exist yet.

        Raises:
            ObjectConflict: it exists.
            ClusterError: see ``errors``.
        """
        path = resource.path(body["metadata"]["namespace"])
        return self._call("create", "POST", path, {"fieldManager": FIELD_MANAGER}, body)

    def replace(self, resource: Resource, body: Object) -> dict[str, Any]:
        """Replace an object that has not changed since ``body`` was read, and return it.

        Raises:
            ObjectConflict: its ``resourceVersion`` is another by now.
            ClusterError: see ``errors``.
        """
        metadata = body["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return self._call("update", "PUT", path, {"fieldManager": FIELD_MANAGER}, body)

    def merge(self, resource: Resource, namespace: str, name: str, patch: Object) -> dict[str, Any]:
        """Merge ``patch`` into an object (RFC 7396) and return it as it is now.

        Raises:
            ClusterError: see ``errors``.
        """
        path = resource.path(namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return self._call("patch", "PATCH", path, query, patch, "application/merge-patch+json")

    def list_pages(
        self, resource: Resource, namespace: str | None, selector: str = "", fields: str = ""
    ) -> Iterator[list[dict[str, Any]]]:
        """List objects, each with its ``apiVersion`` and ``kind``, page by page.

        Nobody holds more than a page of whole objects, so memory does not grow with the cluster.

        Args:
            resource: the kind.
            namespace: None lists all namespaces.
            selector: label selector; empty selects all.
            fields: field selector; empty selects all.

        Raises:
            ClusterError: see ``errors``; with the page that is asked for.
        """
        query = {"limit": str(LIST_PAGE)}
        if selector:
            query["labelSelector"] = selector
        if fields:
            query["fieldSelector"] = fields
        named = {"apiVersion": resource.api_version, "kind": resource.kind}
        while True:
            page = self._call("list", "GET", resource.path(namespace), query)
            yield [{**item, **named} for item in page.get("items") or []]
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _serves(self, resource: Resource) -> bool:
        try:
            found = self._call("get", "GET", f"/apis/{resource.api_version}", {})
        except ObjectNotFound:
            return False
        return resource.plural in {each["name"] for each in found["resources"]}

    def _call(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        with nullcontext() if verb in READING else self.guard():
            code = NO_ANSWER
            try:
                answer = self._request(method, path, query, body, content_type)
                code = str(answer.status)
                parsed: dict[str, Any] = json.loads(answer.data)
            except ApiException as e:
                code = str(e.status or NO_ANSWER)
                raise refusal(e, f"{verb} {path}") from e
            except urllib3.exceptions.HTTPError as e:
                text = excerpt(f"{type(e).__name__}: {e}")
                raise ClusterUnavailable(f"{verb} {path}: no answer: {text}") from e
            except ValueError as e:
                raise ClusterUnavailable(f"{verb} {path}: the answer is not JSON") from e
            finally:
                self.calls[ApiCall(verb, target_of(path).resource, code)] += 1
        return parsed

    def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Any, content_type: str
    ) -> urllib3.BaseHTTPResponse:
        headers = {
            "Accept": "application/json",
            "Content-Type": content_type,
            "User-Agent": USER_AGENT,
        }
        # Refreshes a ServiceAccount's token when it is about to expire.
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        # Not through call_api, which cannot tell of a failed TLS handshake: it decodes the
        # body that such an answer does not have.
        answer: urllib3.BaseHTTPResponse = self._api.rest_client.request(
            method,
            self._api.configuration.host + path,
            query_params=list(query.items()),
            headers=headers,
            body=body,
            _preload_content=False,
            _request_timeout=(CONNECT_SECONDS, self._read_seconds),
        )
        return answer
