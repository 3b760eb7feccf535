from __future__ import annotations

import asyncio
import threading

import pytest

from tests.crashmatrix.calls import Call
from tests.crashmatrix.executioner import Executioner
from tests.crashmatrix.proxy import Cut

WRITE = Call("PATCH", "/apis/batch/v1/namespaces/life-1/jobs/m")
LIST = Call("GET", "/apis/batch/v1/namespaces/life-1/jobs")


class Server:
    """What the proxy does with a call that is let through."""

    def __init__(self) -> None:
        self.reached = 0
        self.answered = 0
        self.kills = 0
        self.executioner = Executioner(kill=self._kill)

    def call(self, call: Call, status: int = 200) -> None:
        async def go() -> None:
            await self.executioner.ask(call)
            self.reached += 1
            await self.executioner.answer(call, status)
            self.answered += 1

        asyncio.run(go())

    def _kill(self) -> None:
        self.kills += 1


def test_a_death_before_a_call_keeps_it_from_the_server() -> None:
    server = Server()
    server.executioner.watch_for(1, "before")
    server.call(WRITE)
    with pytest.raises(Cut):
        server.call(WRITE)
    assert (server.reached, server.answered, server.kills) == (1, 1, 1)


def test_a_death_after_a_call_keeps_its_answer() -> None:
    server = Server()
    server.executioner.watch_for(0, "after")
    with pytest.raises(Cut):
        server.call(WRITE)
    assert (server.reached, server.answered, server.kills) == (1, 0, 1)
    assert server.executioner.died


def test_it_kills_once() -> None:
    server = Server()
    server.executioner.watch_for(0, "before")
    with pytest.raises(Cut):
        server.call(WRITE)
    server.call(WRITE)
    server.call(WRITE)
    assert server.kills == 1


def test_what_does_not_count_moves_no_number() -> None:
    server = Server()
    server.executioner.watch_for(1, "before")
    server.call(WRITE)
    server.call(LIST)
    assert not server.executioner.died


def test_a_new_watch_counts_from_the_start() -> None:
    server = Server()
    server.executioner.watch_for(0, "after")
    with pytest.raises(Cut):
        server.call(WRITE, 201)
    server.executioner.watch_for(None)
    server.call(WRITE)
    assert (len(server.executioner.trace), server.executioner.made) == (1, [])


def test_it_notes_what_was_made_also_when_nobody_heard_of_it() -> None:
    server = Server()
    server.executioner.watch_for(0, "after")
    with pytest.raises(Cut):
        server.call(WRITE, 201)
    assert server.executioner.made == [f"PATCH {WRITE.path}"]


def test_it_has_died_also_when_its_connection_went_first() -> None:
    killing, goes_on = threading.Event(), threading.Event()

    def kill() -> None:
        killing.set()
        goes_on.wait()

    async def go(executioner: Executioner) -> None:
        call = asyncio.create_task(executioner.ask(WRITE))
        await asyncio.to_thread(killing.wait)
        call.cancel()
        await asyncio.wait([call])
        goes_on.set()

    executioner = Executioner(kill)
    executioner.watch_for(0, "before")
    # Its end waits for the threads.
    asyncio.run(go(executioner))
    assert executioner.died
