from __future__ import annotations

import gc

import pytest

from shardedmodel_runtime.memory import collection_paused


def test_the_collector_rests_and_goes_on() -> None:
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_goes_on_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), collection_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_collector_that_rested_before_rests_on() -> None:
    with collection_paused():
        with collection_paused():
            pass
        assert not gc.isenabled()
