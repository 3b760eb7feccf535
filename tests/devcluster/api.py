"""The few requests to the API server that the cluster itself makes, on the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.devcluster.errors import DevClusterError

#: A request to a server on this machine that takes longer will not come back.
TIMEOUT_SECONDS = 5.0


class ApiError(DevClusterError):
    """The API server cannot be reached or refused a request."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """A client with the address and the identity of one of this package's own kubeconfigs."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._server: str = cluster["server"]
        self._token: str = document["users"][0]["user"]["token"]
        # No proxy: the server is on this machine, whatever the environment says.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
        )

    def text(self, path: str) -> str:
        """Returns the body of a GET.

        Raises:
            ApiError: There was none.
        """
        with self._open(path) as response:
            return str(response.read().decode())

    def get(self, path: str) -> dict[str, Any]:
        """Returns an object or a list."""
        return dict(json.loads(self.text(path)))

    def json_patch(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Applies a JSON patch.

        Raises:
            ApiError: The server refused it.
        """
        body = json.dumps(operations).encode()
        self._open(path, "PATCH", body, "application/json-patch+json").close()

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Creates an object in a list.

        Raises:
            ApiError: The server refused it.
        """
        self._open(path, "POST", json.dumps(body).encode(), "application/json").close()

    def delete(self, path: str) -> None:
        """Deletes an object.

        Raises:
            ApiError: The server refused it.
        """
        self._open(path, "DELETE").close()

    def watch(self, path: str, version: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Yields the events after a version, until the server ends the watch.

        Raises:
            ApiError: The connection broke.
        """
        query = f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        with self._open(query, timeout=seconds + TIMEOUT_SECONDS) as response:
            try:
                for line in response:
                    yield json.loads(line)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ApiError(f"watch of {path}: {error}") from error

    def _open(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        content: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if content:
            headers["Content-Type"] = content
        request = urllib.request.Request(
            self._server + path, data=body, method=method, headers=headers
        )
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise ApiError(f"{method} {path}: {error.code}: {detail}", error.code) from error
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{method} {path}: {error}") from error
        return response
