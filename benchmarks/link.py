"""A network link of a known speed on this machine: a cable into a network namespace, and a shaper.

Loopback is as fast as memory, so on it a client competes with its server for the cores and nothing
else. A node reads from its store over a link, which is what a loader has to fill. The shaper (a
token bucket, tc-tbf(8)) sits at the far end, where the server's bytes enter the cable.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tests.devcluster import packages
from tests.devcluster.shell import run

GIGABITS = 10
"""Of a second: what published comparisons of loaders read over, and two cores can fill."""
MTU = 9000
"""Bytes of a packet, as networks of clouds have it between their own machines."""
_BURST_BYTES = 1_000_000
"""Of the bucket: 0.8 ms of the link, so that a timer that fires late does not leave it idle."""
_LATENCY_MILLISECONDS = 20
"""Longest a packet waits for tokens before it is dropped; the senders' windows are smaller."""
_NAMESPACE = "shardedmodel-bench"
_NEAR, _FAR = "smbench0", "smbench1"
_HERE, _THERE = "198.18.77.1", "198.18.77.2"
"""Of the networks that RFC 2544 sets aside for benchmarks."""


class Link:
    """A link of ``GIGABITS`` between this machine and a namespace; needs root.

    Attributes:
        address: of the far end, as it is reached from here.
        inside: the words that run a command at the far end.
    """

    address = _THERE
    inside = ("ip", "netns", "exec", _NAMESPACE)

    def __enter__(self) -> Self:
        packages.ensure(("iproute2",), print)
        run(["ip", "netns", "add", _NAMESPACE])
        try:
            self._lay_cable()
        except Exception:
            self._take_away()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._take_away()

    def _lay_cable(self) -> None:
        run(["ip", "link", "add", _NEAR, "type", "veth", "peer", "name", _FAR])
        run(["ip", "link", "set", _FAR, "netns", _NAMESPACE])
        for words, address, device in (((), _HERE, _NEAR), (self.inside, _THERE, _FAR)):
            run([*words, "ip", "address", "add", f"{address}/30", "dev", device])
            run([*words, "ip", "link", "set", device, "mtu", str(MTU), "up"])
        bucket = ("burst", str(_BURST_BYTES), "latency", f"{_LATENCY_MILLISECONDS}ms")
        shaper = ("root", "tbf", "rate", f"{GIGABITS}gbit", *bucket)
        run([*self.inside, "tc", "qdisc", "add", "dev", _FAR, *shaper])

    def _take_away(self) -> None:
        run(["ip", "netns", "delete", _NAMESPACE])  # and with it the cable
