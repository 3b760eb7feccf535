"""When each watch last gave a sign: an event, or a stream that the server began.

An idle cluster sends no events, but the server ends every stream after some minutes and begins a
new one, so a watch that gave no sign for longer than that is broken, whatever its task believes.
The HTTP session of kopf tells of the streams, and of all its calls for the count of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import kopf

from shardedmodel_operator.cluster.calls import NO_ANSWER, ApiCall, Target, target_of
from shardedmodel_operator.cluster.resources import WATCHED, Resource

OK = 200


class Watches:
    """The watches of one operator; ages are read by the server's threads."""

    def __init__(
        self,
        namespaces: Sequence[str],
        calls: Counter[ApiCall],
        clock: Callable[[], float],
        watched: Sequence[Resource] = WATCHED,
    ) -> None:
        """Expect watches of the kinds in each of ``namespaces`` (none: one of all together)."""
        self._clock = clock
        self._calls = calls
        self._opened: tuple[kopf.ConnectionInfo, kopf.AiohttpSession] | None = None
        served: Sequence[str | None] = namespaces or (None,)
        self._signs = {
            Target(namespace, resource.plural): clock()
            for namespace in served
            for resource in watched
        }

    def sign(self, namespace: str | None, resource: str) -> None:
        """Note that something came of a watch.

        Args:
            namespace: of the object, or of the stream.
            resource: plural.
        """
        for target in (Target(namespace, resource), Target(None, resource)):
            if target in self._signs:
                self._signs[target] = self._clock()

    def ages(self) -> dict[str, float]:
        """Seconds since the last sign by resource: that of the longest silent namespace."""
        now, found = self._clock(), dict[str, float]()
        for target, at in self._signs.items():
            found[target.resource] = max(now - at, found.get(target.resource, 0.0))
        return found

    def session(self, info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """Open the session that kopf would, with an ear on it; to be called in the event loop.

        The same credentials give the same session: kopf asks again for those that were refused,
        and gives up on what it knows to be refused, instead of asking for ever.
        """
        if self._opened is not None and self._opened[0] == info:
            return self._opened[1]
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._failed)
        session = aiohttp.ClientSession(
            # No limit: there is a stream for each kind and namespace.
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            trace_configs=[trace],
        )
        opened = kopf.AiohttpSession(server=info.server, aiohttp_session=session)
        self._opened = (info, opened)
        return opened

    async def _answered(
        self, _: aiohttp.ClientSession, __: Any, told: aiohttp.TraceRequestEndParams
    ) -> None:
        watches = "watch" in told.url.query
        target = target_of(told.url.path)
        verb, status = "watch" if watches else "list", told.response.status
        self._calls[ApiCall(verb, target.resource, str(status))] += 1
        if status == OK:
            self.sign(*target)

    async def _failed(
        self, _: aiohttp.ClientSession, __: Any, told: aiohttp.TraceRequestExceptionParams
    ) -> None:
        verb = "watch" if "watch" in told.url.query else "list"
        self._calls[ApiCall(verb, target_of(told.url.path).resource, NO_ANSWER)] += 1
