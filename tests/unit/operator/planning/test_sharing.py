"""Two models and one layout: one goes with it while the other uses it, makes it, or wants to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.objects import Meta
from shardedmodel_operator.planning.sharing import layout_label
from tests.builders.operator import LAYOUT_HASH, ModelBuilder
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import event_reasons, message, ready, reason, sharded

LIMIT = 600


def renamed(**source: str) -> ModelBuilder:
    """Another model of the same files under another word: its request differs."""
    builder = ModelBuilder("other")
    builder.body["spec"]["source"] |= {"revision": "v2"} | source
    return builder


def asks_to_go(builder: ModelBuilder | None = None) -> ModelBuilder:
    """A model that has its layout and is asked to go with it."""
    leaving = (builder or ModelBuilder("leaving")).with_retention("Delete").deleting()
    leaving.body["metadata"]["finalizers"] = ["shardedmodel.dev/layout"]
    return leaving.with_status({"sharding": {"layoutHash": LAYOUT_HASH}})


def going(*neighbours: ModelBuilder) -> SimulatedCluster:
    """A model that was Ready and is asked to go, beside others."""
    cluster = ready(ModelBuilder().with_retention("Delete"))
    cluster.pass_time(3600)
    cluster.builder.deleting(cluster.now)
    cluster.neighbours = list(neighbours)
    return cluster


def cleanups(cluster: SimulatedCluster) -> list[str]:
    return [name for name in cluster.names("Job") if "-delete-" in name]


def loading(uri: str, namespace: str = "models") -> tuple[str, Meta]:
    """A StatefulSet of another model that loads the layout at ``uri``."""
    own = {labels.MODEL: "other", labels.LAYOUT: layout_label(uri)}
    return namespace, Meta("other-1-0", "uid-set", own, owner_uid="uid-other")


# The one that goes


def test_it_waits_for_a_model_that_may_be_cutting_the_same_layout() -> None:
    cluster = going(renamed())
    decided = cluster.settle()
    assert cleanups(cluster) == []
    assert not cluster.model_is_gone
    assert decided.requeue_after == cluster.settings.poll_seconds


def told(layout: str) -> dict[str, Any]:
    return {"sharding": {"requestHash": renamed().request, "layoutHash": layout}}


def test_a_layout_that_turned_out_to_be_the_same_is_kept() -> None:
    cluster = going(renamed())
    cluster.settle()
    cluster.neighbours = [renamed().with_status(told(LAYOUT_HASH))]
    cluster.step()
    assert cluster.model_is_gone
    assert event_reasons(cluster)[-1] == "LayoutKept"


def test_one_that_turned_out_to_be_another_is_deleted() -> None:
    cluster = going(renamed())
    cluster.settle()
    cluster.neighbours = [renamed().with_status(told("f" * 20))]
    cluster.settle()
    assert len(cleanups(cluster)) == 1


def test_it_does_not_wait_for_ever() -> None:
    cluster = going(renamed())
    cluster.settle()
    cluster.pass_time(LIMIT)
    cluster.step()
    assert cluster.model_is_gone
    assert cluster.events[-1].reason == "LayoutNotDeleted"
    assert "ShardedModel models/other may be cutting it" in cluster.events[-1].message


def test_a_cleanup_that_could_not_end_in_time_is_not_begun() -> None:
    cluster = going(renamed())
    cluster.settle()
    cluster.pass_time(LIMIT - 90)
    cluster.neighbours = []
    cluster.settle()
    assert cleanups(cluster) == []
    assert not cluster.model_is_gone


@pytest.mark.parametrize(
    "other",
    [
        renamed(uri="s3://models/else"),
        renamed().with_parallelism(tensor=4),
        renamed().with_spec(sharding={"dtype": "float16"}),
    ],
)
def test_models_that_cut_something_else_are_not_waited_for(other: ModelBuilder) -> None:
    cluster = going(other)
    cluster.settle()
    assert len(cleanups(cluster)) == 1


def test_a_cleanup_that_has_begun_is_ended_whoever_comes() -> None:
    cluster = going()
    cluster.settle()
    cluster.neighbours = [ModelBuilder("other")]
    cluster.settle()
    assert not cluster.model_is_gone
    assert len(cleanups(cluster)) == 1


def test_a_layout_that_the_old_revision_of_a_changed_model_loads_is_kept() -> None:
    cluster = going(renamed(uri="s3://models/else"))
    cluster.neighbouring_sets = [loading(f"s3://shards/{LAYOUT_HASH}", "elsewhere")]
    cluster.step()
    assert cluster.events[-1].message == (
        f"s3://shards/{LAYOUT_HASH}: ShardedModel elsewhere/other uses it"
    )


def test_the_same_layout_at_another_address_is_another() -> None:
    cluster = going()
    cluster.neighbouring_sets = [loading(f"s3://backup/{LAYOUT_HASH}")]
    cluster.settle()
    assert len(cleanups(cluster)) == 1


def test_a_layout_of_a_model_whose_spec_is_broken_is_kept() -> None:
    broken = ModelBuilder("other").with_parallelism(tensor=0)
    cluster = going(broken.with_status({"sharding": {"layoutHash": LAYOUT_HASH}}))
    cluster.step()
    assert event_reasons(cluster)[-1] == "LayoutKept"


def test_groups_say_which_layout_they_load() -> None:
    (found,) = sharded().of_kind("StatefulSet")
    told = found["metadata"]["labels"][labels.LAYOUT]
    assert told == layout_label(f"s3://shards/{LAYOUT_HASH}")
    assert labels.LAYOUT not in found["spec"]["template"]["metadata"]["labels"]


# The one that comes


@pytest.mark.parametrize("leaving", [asks_to_go(), asks_to_go(renamed())])
def test_no_job_begins_while_the_layout_is_being_deleted(leaving: ModelBuilder) -> None:
    cluster = SimulatedCluster()
    cluster.neighbours = [leaving]
    decided = cluster.settle()
    assert cluster.names("Job") == []
    assert decided.requeue_after == cluster.settings.poll_seconds
    assert reason(cluster) == "LayoutBeingDeleted"
    assert f"models/{leaving.body['metadata']['name']} is being deleted" in message(cluster)
    assert not cluster.model.status.holds("Stalled")


def test_it_begins_when_the_other_has_gone() -> None:
    cluster = SimulatedCluster()
    cluster.neighbours = [asks_to_go()]
    cluster.settle()
    cluster.neighbours = []
    cluster.settle()
    assert len(cluster.names("Job")) == 1
    assert reason(cluster) == "ShardingStarting"


def _kept(builder: ModelBuilder) -> ModelBuilder:
    return builder.with_retention("Retain")


def _unsharded(builder: ModelBuilder) -> ModelBuilder:
    return builder.with_status({})


def _unbound(builder: ModelBuilder) -> ModelBuilder:
    builder.body["metadata"]["finalizers"] = []
    return builder


@pytest.mark.parametrize("harmless", [_kept, _unsharded, _unbound])
def test_a_model_that_goes_without_a_layout_is_not_waited_for(
    harmless: Callable[[ModelBuilder], ModelBuilder],
) -> None:
    cluster = SimulatedCluster()
    cluster.neighbours = [harmless(asks_to_go())]
    cluster.settle()
    assert len(cluster.names("Job")) == 1


def test_a_model_that_has_its_layout_waits_for_nobody() -> None:
    cluster = ready()
    cluster.neighbours = [asks_to_go()]
    cluster.settle()
    assert cluster.model.status.holds("Ready")
