from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.ending import EXIT_CODE, unwind_on_sigterm


@pytest.fixture
def _unwinding() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    unwind_on_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


def be_ended(stopped: list[str]) -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        stopped.append("server")


@pytest.mark.usefixtures("_unwinding")
def test_what_a_run_started_is_stopped_when_it_is_ended() -> None:
    stopped: list[str] = []
    with pytest.raises(SystemExit) as ended:
        be_ended(stopped)
    assert (ended.value.code, stopped) == (EXIT_CODE, ["server"])
