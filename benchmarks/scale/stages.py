"""The stages of a run: what is done to the models, and what is measured meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from benchmarks.scale.api import Json
from benchmarks.scale.models import Models, Seen, Wanted
from benchmarks.scale.readings import MIB, READING, difference, own_calls, spread
from benchmarks.scale.world import World

STAGE_SECONDS = 1800.0
"""Longest wait for all models to get where they should."""
QUIET_SECONDS = 15.0
"""Without a write for so long, a stage has passed: progress is written every 10 s at most."""
SEED = 20261123
"""Of the models that are touched."""


def is_ready(seen: Seen) -> bool:
    """Whether the model is Ready, and its status speaks of its spec."""
    return seen.ready and seen.current


class Stages:
    """The life of all models, one stage after another."""

    def __init__(self, world: World, models: Models) -> None:
        self._world = world
        self._models = models
        self._count = len(models.names)

    async def create(self) -> Json:
        """Create all models at once; they become Ready."""
        return await self._burst(self._models.create, lambda _: is_ready)

    async def scale(self) -> Json:
        """Give every model a second group."""

        async def do(number: int) -> None:
            await self._models.patch(number, {"replicas": 2})

        return await self._burst(do, lambda _: lambda s: is_ready(s) and s.ready_replicas == 2)

    async def change(self) -> Json:
        """Name another revision of every source: a new layout beside the old one, then a switch."""
        names = self._models.names
        former = [self._models.seen[name].revision for name in names]

        async def do(number: int) -> None:
            await self._models.patch(number, {"source": {"revision": "2"}})

        return await self._burst(do, lambda n: lambda s: is_ready(s) and s.revision != former[n])

    async def delete(self) -> Json:
        """Delete all models."""
        return await self._burst(self._models.delete, lambda _: lambda seen: seen.gone)

    async def touch(self, seconds: float, per_second: float) -> Json:
        """Change single models that are otherwise left alone; time until status speaks of it.

        Both ends are events of one watch: that of the changed spec, and that of the status.
        """
        chosen = random.Random(SEED)
        before = await self._world.read()
        tasks: list[asyncio.Task[float]] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            number = chosen.randrange(self._count)
            tasks.append(asyncio.create_task(self._touch(number, 1800 + len(tasks))))
            # Not all at the same distance, which might meet the rhythm of something else.
            await asyncio.sleep(chosen.uniform(0, 2 / per_second))
        waits = [wait for wait in await asyncio.gather(*tasks) if wait >= 0]
        after = await self._world.read()
        cost = difference(before, after, len(tasks))
        return cost | {"eventToReconciledSeconds": spread(waits)}

    async def idle(self, seconds: float) -> Json:
        """Change nothing, and count what is written all the same."""
        before = await self._world.read()
        await asyncio.sleep(seconds)
        after = await self._world.read()
        calls = after.calls - before.calls
        return {
            "seconds": round(after.at - before.at, 1),
            "operatorWrites": own_calls(calls).total(),
            "serverWrites": after.server_writes - before.server_writes,
            "leaseCalls": sum(n for call, n in calls.items() if call.endswith(" leases")),
            "lists": {c: n for c, n in sorted(calls.items()) if c.split()[0] in READING},
            "reconciles": after.reconciles - before.reconciles,
            "operatorCpuSeconds": round(after.cpu - before.cpu, 2),
            "rssMiB": round(after.rss / MIB, 1),
            "peakRssMiB": round(after.peak / MIB, 1),
        }

    async def restart(self) -> Json:
        """Kill the operator and start another that finds everything as it is."""
        before = await self._world.read()
        started = time.monotonic()
        await asyncio.to_thread(self._world.restart_operator)
        seconds = time.monotonic() - started
        await self._quiet()
        after = await self._world.read()
        return {
            "secondsUntilReady": round(seconds, 1),
            "operatorWrites": own_calls(after.calls).total(),
            "serverWrites": after.server_writes - before.server_writes,
            "operatorCpuSeconds": round(after.cpu, 2),
            "rssMiB": round(after.rss / MIB, 1),
            "peakRssMiB": round(after.peak / MIB, 1),
        }

    async def _touch(self, number: int, seconds: int) -> float:
        name = self._models.names[number]
        state = self._models.seen[name]
        if not state.current:
            # It was touched a moment ago.
            return -1.0
        changed = self._models.expect(number, lambda seen: seen.generation > state.generation)
        await self._models.patch(number, {"rollout": {"progressDeadlineSeconds": seconds}})
        since = (await changed).at
        if self._models.seen[name].current:
            return self._models.seen[name].at - since
        return (await self._models.expect(number, lambda seen: seen.current)).at - since

    async def _burst(
        self, do: Callable[[int], Awaitable[None]], wanted: Callable[[int], Wanted]
    ) -> Json:
        before = await self._world.read()
        started = time.monotonic()
        numbers = range(self._count)
        reached = [self._models.expect(number, wanted(number)) for number in numbers]
        await asyncio.gather(*map(do, numbers))
        sent = time.monotonic() - started
        async with asyncio.timeout(STAGE_SECONDS):
            seen = await asyncio.gather(*reached)
        burst = max(each.at for each in seen) - started
        await self._quiet()
        cost = difference(before, await self._world.read(), self._count)
        return cost | {
            "secondsToSend": round(sent, 1),
            "secondsUntilAllAreThere": round(burst, 1),
        }

    async def _quiet(self) -> None:
        """Wait until nothing is written any more."""
        writes, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(2)
            now = await self._world.server_writes()
            if now != writes:
                writes, since = now, time.monotonic()
