from __future__ import annotations

from collections.abc import Callable

import pytest

from shardedmodel_runtime.layout.records import record_key
from tests.crashmatrix.calls import Call
from tests.crashmatrix.faults import FAULTS
from tests.crashmatrix.phases import commits, deletes, reads_shard_of

MANIFEST = "/shards/0123abcd/manifest.json"
SHARD = "/shards/0123abcd/tp-00001-of-00002/part-00000.safetensors"


@pytest.mark.parametrize(
    ("wanted", "call", "is_held"),
    [
        (commits, Call("PUT", MANIFEST), True),
        (commits, Call("GET", MANIFEST), False),
        (commits, Call("PUT", SHARD), False),
        (reads_shard_of(1), Call("GET", SHARD), True),
        (reads_shard_of(0), Call("GET", SHARD), False),
        (reads_shard_of(1), Call("PUT", SHARD), False),
        (reads_shard_of(1), Call("GET", f"/shards/{record_key(SHARD)}"), False),
        (deletes, Call("DELETE", MANIFEST), True),
        (deletes, Call("POST", "/shards/"), True),
        (deletes, Call("POST", MANIFEST), False),
    ],
)
def test_a_phase_holds_its_own_request_alone(
    wanted: Callable[[Call], bool], call: Call, is_held: bool
) -> None:
    assert wanted(call) is is_held


def test_no_fault_is_tried_twice() -> None:
    names = [(fault.phase.name, fault.victim.name) for fault in FAULTS]
    assert len(set(names)) == len(names)


def test_every_server_dies_in_every_phase() -> None:
    by_phase: dict[str, set[str]] = {}
    for fault in FAULTS:
        by_phase.setdefault(fault.phase.name, set()).add(fault.victim.name)
    servers = {"the S3 server", "kube-apiserver", "etcd"}
    assert all(servers < victims for victims in by_phase.values())
