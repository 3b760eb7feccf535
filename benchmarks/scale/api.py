"""An asynchronous client of the API server, for what the operator's surroundings do."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

from shardedmodel_operator.cluster.resources import Resource

Json = dict[str, Any]

PARALLEL = 16
"""Requests at a time: enough to keep an API server of two cores busy."""
WATCH_SECONDS = 7200
"""Longer than a run, so that a watch is not made anew."""


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


class Api:
    """Requests with the rights of a kubeconfig, counted by nobody."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._token: str = document["users"][0]["user"]["token"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._free = asyncio.Semaphore(PARALLEL)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._server,
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: Any = None, kind: str = "json") -> Json:
        """Send one request and give the answer.

        Raises:
            ApiError: it was refused.
        """
        answer: Json = json.loads(await self.text(method, path, body, kind))
        return answer

    async def text(self, method: str, path: str, body: Any = None, kind: str = "json") -> str:
        """Send one request and give the answer as it is.

        Raises:
            ApiError: it was refused.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": f"application/{kind}"}
        async with (
            self._free,
            self._session.request(method, path, data=data, headers=headers) as answer,
        ):
            text = await answer.text()
            if answer.status >= 400:
                raise ApiError(answer.status, text)
            return text

    async def watch(
        self, resource: Resource, selector: str, see: Callable[[str, Json], None]
    ) -> None:
        """Tell ``see`` of every object and event of a kind, for ever.

        The server ends the watch of a client that falls behind; what was deleted until the next
        list is told by its absence.
        """
        path = resource.path(None)
        known: dict[str, Json] = {}
        while True:
            listed = await self.request("GET", f"{path}?labelSelector={selector}")
            there = {body["metadata"]["uid"]: body for body in listed["items"]}
            for uid in known.keys() - there.keys():
                see("DELETED", known[uid])
            known = there
            for body in there.values():
                see("ADDED", body)
            version = listed["metadata"]["resourceVersion"]
            query = f"labelSelector={selector}&watch=1&timeoutSeconds={WATCH_SECONDS}"
            async for event in self._events(f"{path}?{query}&resourceVersion={version}"):
                if event["type"] == "ERROR":
                    # Too old: the list tells what was missed.
                    break
                body = event["object"]
                if event["type"] == "DELETED":
                    known.pop(body["metadata"]["uid"], None)
                else:
                    known[body["metadata"]["uid"]] = body
                see(event["type"], body)

    async def _events(self, path: str) -> AsyncIterator[Json]:
        async with self._session.get(path) as answer:
            rest = b""
            # By lines of any length; a StreamReader's own iteration bounds them.
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
