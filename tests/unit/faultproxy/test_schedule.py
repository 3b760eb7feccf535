from __future__ import annotations

from collections import Counter

from tests.faultproxy.faults import Kind
from tests.faultproxy.messages import Head, Request
from tests.faultproxy.schedule import Plan

KINDS = (Kind.FLIPPED_BIT, Kind.RESET)


def get(number: int = 0, query: str = "") -> Request:
    line = f"GET /bucket/part.safetensors{query} HTTP/1.1"
    return Request(Head(line, (("Range", f"bytes={number}-{number}"),)))


def test_one_seed_is_one_schedule_whatever_the_order() -> None:
    plan = Plan(7, KINDS)
    forward = {number: plan.fault(get(number), 0) for number in range(100)}
    backward = {number: plan.fault(get(number), 0) for number in reversed(range(100))}
    assert forward == backward


def test_another_seed_meets_other_requests() -> None:
    first, second = (
        [Plan(seed, KINDS).fault(get(number), 0) for number in range(100)] for seed in (1, 2)
    )
    assert first != second


def test_about_the_share_of_requests_meets_a_fault_and_kinds_take_turns() -> None:
    plan = Plan(7, KINDS, share=0.3)
    met = Counter(plan.fault(get(number), 0) for number in range(1000))
    assert 600 < met[None] < 800
    assert met.keys() == {None, *KINDS}


def test_a_burst_ends_when_the_same_is_asked_for_again() -> None:
    plan = Plan(7, KINDS, share=1.0, burst=2)
    assert [plan.fault(get(), occurrence) is None for occurrence in range(3)] == [
        False,
        False,
        True,
    ]


def test_a_burst_without_end_has_none() -> None:
    assert Plan(7, KINDS, share=1.0, burst=None).fault(get(), 1000) is not None


def test_a_signature_in_the_address_does_not_make_another_request() -> None:
    assert get(query="?X-Amz-Date=1").identity == get(query="?X-Amz-Date=2").identity


def test_without_kinds_nothing_is_injected() -> None:
    assert Plan(share=1.0).fault(get(), 0) is None


def test_only_reads_of_the_named_paths_meet_faults() -> None:
    plan = Plan(7, KINDS, share=1.0, suffix="manifest.json")
    assert plan.fault(get(), 0) is None
