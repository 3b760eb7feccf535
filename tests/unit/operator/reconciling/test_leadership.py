"""One operator acts at a time, whatever clocks, answers and the others do."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardedmodel_operator.cluster.resources import LEASES, Object, Resource
from shardedmodel_operator.errors import ClusterUnavailable, NotLeading, ObjectConflict
from shardedmodel_operator.reconciling import leadership
from shardedmodel_operator.reconciling.leadership import (
    LEASE_SECONDS,
    POLL_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RENEW_SECONDS,
    Election,
    LeaseName,
    Sighting,
    Tenure,
    decide,
)
from tests.unit.operator.reconciling.builders import Clock

ME, OTHER = "me", "other"


def sighting(holder: str, since: float = 0.0) -> Sighting:
    return Sighting(holder=holder, seconds=LEASE_SECONDS, version="1", since=since)


def test_a_lease_that_does_not_exist_is_made() -> None:
    assert decide(None, ME, 0) == "create"


def test_the_own_lease_is_renewed_however_old_it_is() -> None:
    assert decide(sighting(ME), ME, 1000) == "renew"


def test_a_lease_that_was_handed_on_is_taken_at_once() -> None:
    assert decide(sighting(""), ME, 0) == "take"


def test_anothers_lease_is_left_alone_for_its_whole_duration() -> None:
    assert decide(sighting(OTHER, since=5), ME, 5 + LEASE_SECONDS - 0.001) == "wait"


def test_anothers_lease_that_did_not_change_for_its_duration_is_taken() -> None:
    assert decide(sighting(OTHER, since=5), ME, 5 + LEASE_SECONDS) == "take"


def body(holder: str, version: str, seconds: int = LEASE_SECONDS) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds}
    return {"metadata": {"resourceVersion": version}, "spec": spec}


def test_a_lease_is_as_old_as_its_last_change_that_was_seen() -> None:
    first = Sighting.of(body(OTHER, "1"), None, now=10)
    assert Sighting.of(body(OTHER, "1"), first, now=15).since == 10
    assert Sighting.of(body(OTHER, "2"), first, now=15).since == 15


def test_the_times_in_a_lease_are_never_read() -> None:
    past = body(OTHER, "1")
    past["spec"]["renewTime"] = "1970-01-01T00:00:00.000000Z"
    assert decide(Sighting.of(past, None, now=10), ME, 10) == "wait"


def test_the_duration_is_the_holders() -> None:
    seen = Sighting.of(body(OTHER, "1", seconds=60), None, now=0)
    assert decide(seen, ME, 59) == "wait"


def test_a_lease_without_content_is_free() -> None:
    empty = {"metadata": {"resourceVersion": "1"}}
    assert decide(Sighting.of(empty, None, now=0), ME, 0) == "take"


def test_the_holder_stops_before_anyone_else_may_begin() -> None:
    assert RENEW_DEADLINE_SECONDS < LEASE_SECONDS
    assert LEASE_SECONDS + 2 * POLL_SECONDS < 15


def test_a_tenure_ends_by_itself() -> None:
    clock = Clock()
    tenure = Tenure(clock)
    assert not tenure.lasts()
    tenure.extend(8.0)
    assert tenure.lasts()
    clock.now = 8.0
    assert not tenure.lasts()
    with pytest.raises(NotLeading), tenure.act():
        raise AssertionError("acted")


def test_a_tenure_that_is_extended_in_time_is_the_same() -> None:
    clock = Clock()
    tenure = Tenure(clock)
    tenure.extend(8.0)
    clock.now = 7.0
    tenure.extend(15.0)
    assert tenure.number == 1
    clock.now = 20.0
    tenure.extend(28.0)
    assert tenure.number == 2


def test_a_tenure_that_was_closed_never_begins_again() -> None:
    tenure = Tenure(Clock())
    tenure.close()
    tenure.extend(8.0)
    assert not tenure.lasts()


def test_a_deed_under_way_is_known() -> None:
    tenure = Tenure(Clock())
    tenure.extend(8.0)
    with tenure.act():
        assert not tenure.rests()
    assert tenure.rests()


class LeaseServer:
    """Keeps one Lease as the API server does."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.reachable = True
        self.loses_answers = False

    def with_patience(self, _: float) -> LeaseServer:
        return self

    def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        assert (resource, namespace, name) == (LEASES, "system", "operator")
        self._reach()
        return copy.deepcopy(self.lease)

    def create(self, resource: Resource, body: Object) -> dict[str, Any]:
        self._reach()
        if self.lease is not None:
            raise ObjectConflict("exists", 409)
        return self._write(body)

    def replace(self, resource: Resource, body: Object) -> dict[str, Any]:
        self._reach()
        if self.lease is None or body["metadata"]["resourceVersion"] != str(self.version):
            raise ObjectConflict("changed", 409)
        return self._write(body)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])

    def _reach(self) -> None:
        if not self.reachable:
            raise ClusterUnavailable("no answer")

    def _write(self, body: Object) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(dict(body))
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        if self.loses_answers:
            raise ClusterUnavailable("the answer was lost")
        return copy.deepcopy(self.lease)


def candidate(server: LeaseServer, clock: Clock, identity: str = ME) -> tuple[Election, Tenure]:
    tenure = Tenure(clock)
    lease = LeaseName("system", "operator")
    return Election(server, lease, identity, tenure, clock), tenure  # type: ignore[arg-type]


def test_the_first_one_leads_and_the_second_waits() -> None:
    server, clock = LeaseServer(), Clock()
    (first, leads), (second, waits) = (candidate(server, clock, who) for who in (ME, OTHER))
    first.step()
    second.step()
    assert (leads.lasts(), waits.lasts(), server.holder) == (True, False, ME)


def test_one_of_two_that_take_at_once_gets_a_conflict_and_waits() -> None:
    server, clock = LeaseServer(), Clock()
    (first, one), (second, two) = (candidate(server, clock, who) for who in (ME, OTHER))
    found = server.read

    def both_see_nothing(resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        server.read = found  # type: ignore[method-assign]
        seen = found(resource, namespace, name)
        first.step()
        return seen

    server.read = both_see_nothing  # type: ignore[method-assign]
    second.step()
    assert (one.lasts(), two.lasts()) == (True, False)


def test_a_holder_that_is_cut_off_stops_before_the_other_begins() -> None:
    server, clock = LeaseServer(), Clock()
    first, mine = candidate(server, clock)
    second, others = candidate(server, clock, OTHER)
    first.step()
    second.step()
    server.reachable = False
    clock.now = RENEW_DEADLINE_SECONDS
    first.step()
    assert not mine.lasts()
    server.reachable = True
    second.step()
    assert not others.lasts()
    clock.now = LEASE_SECONDS
    second.step()
    assert others.lasts()


def test_a_holder_that_sees_anothers_name_stops_at_once() -> None:
    server, clock = LeaseServer(), Clock()
    election, tenure = candidate(server, clock)
    election.step()
    assert server.lease is not None
    server.lease["spec"]["holderIdentity"] = OTHER
    server.lease["metadata"]["resourceVersion"] = "7"
    election.step()
    assert not tenure.lasts()


def test_a_renewal_whose_answer_was_lost_does_not_count_until_it_is_seen() -> None:
    server, clock = LeaseServer(), Clock()
    election, tenure = candidate(server, clock)
    server.loses_answers = True
    election.step()
    assert (server.holder, tenure.lasts()) == (ME, False)
    server.loses_answers = False
    election.step()
    assert tenure.lasts()


def test_how_often_the_lease_changed_hands_is_counted() -> None:
    server, clock = LeaseServer(), Clock()
    first, _ = candidate(server, clock)
    second, _ = candidate(server, clock, OTHER)
    first.step()
    first.step()
    second.step()
    clock.now += LEASE_SECONDS
    second.step()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


def test_what_keeps_the_lease_from_being_kept_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = LeaseServer()
    server.reachable = False
    election, _ = candidate(server, Clock())
    with caplog.at_level(logging.WARNING):
        election.step()
        election.step()
    assert len(caplog.records) == 1


def test_an_operator_that_ends_hands_the_lease_on() -> None:
    server, clock = LeaseServer(), Clock()
    first, mine = candidate(server, clock)
    first.step()
    asyncio.run(first.release())
    second, others = candidate(server, clock, OTHER)
    second.step()
    assert (mine.lasts(), others.lasts()) == (False, True)


def test_an_operator_that_waits_hands_nothing_on() -> None:
    server, clock = LeaseServer(), Clock()
    first, _ = candidate(server, clock)
    second, _ = candidate(server, clock, OTHER)
    first.step()
    asyncio.run(second.release())
    assert server.holder == ME


def test_a_lease_is_not_handed_on_while_a_call_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leadership, "FINISH_SECONDS", 0.0)
    server = LeaseServer()
    election, tenure = candidate(server, Clock())
    election.step()
    with tenure.act():
        asyncio.run(election.release())
    assert server.holder == ME


def test_a_lease_that_cannot_be_handed_on_runs_out() -> None:
    server = LeaseServer()
    election, _ = candidate(server, Clock())
    election.step()
    server.reachable = False
    asyncio.run(election.release())
    assert server.holder == ME


def test_all_models_are_looked_at_each_time_a_tenure_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leadership, "RENEW_SECONDS", 0.0)
    clock = Clock()
    election, tenure = candidate(LeaseServer(), clock)
    begun: list[int] = []

    async def began() -> None:
        begun.append(tenure.number)
        clock.now += 100.0

    async def scenario() -> None:
        running = asyncio.create_task(election.run(began))
        while len(begun) < 3:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await election.release()

    asyncio.run(scenario())
    assert begun[:3] == [1, 2, 3]


Deed = tuple[str, int, float]

deeds = st.lists(
    st.tuples(
        st.sampled_from(["step", "cut", "heal", "lose", "find"]),
        st.integers(0, 2),
        st.floats(0, RENEW_SECONDS * 3),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(deeds, st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=3, max_size=3))
def test_never_do_two_lead_whatever_their_clocks_show(
    history: list[Deed], offsets: list[float]
) -> None:
    """Clocks of any reading that run alike; links that break; answers that get lost."""
    truth, server = Clock(), LeaseServer()
    cut: set[int] = set()
    clocks = [OffsetClock(truth, offset) for offset in offsets]
    ones = [
        candidate(server, clock, f"operator-{number}")  # type: ignore[arg-type]
        for number, clock in enumerate(clocks)
    ]
    for deed, who, wait in history:
        truth.now += wait
        if deed == "step":
            server.reachable = who not in cut
            ones[who][0].step()
        elif deed in ("cut", "heal"):
            (cut.add if deed == "cut" else cut.discard)(who)
        else:
            server.loses_answers = deed == "lose"
        assert sum(tenure.lasts() for _, tenure in ones) <= 1


class OffsetClock:
    """A clock that shows something else and runs alike."""

    def __init__(self, truth: Clock, offset: float) -> None:
        self._truth = truth
        self._offset = offset

    def __call__(self) -> float:
        return self._truth.now + self._offset
