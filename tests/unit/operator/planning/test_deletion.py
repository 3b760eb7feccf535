"""What becomes of a layout when its model goes."""

from __future__ import annotations

import pytest

from shardedmodel_operator.api.resource import FINALIZER
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.deletion import CLEANUP_MARGIN
from shardedmodel_runtime.report import ShardProgress
from tests.builders.operator import LAYOUT_HASH, ModelBuilder, PodBuilder, failure, stamp, summary
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import event_reasons, ready

NAME = f"tiny-delete-{LAYOUT_HASH[:8]}"
LIMIT = 600


def deletable() -> ModelBuilder:
    return ModelBuilder().with_retention("Delete")


def going(builder: ModelBuilder | None = None) -> SimulatedCluster:
    """A model that was Ready and is asked to go."""
    cluster = ready(builder or deletable())
    cluster.pass_time(3600)
    cluster.builder.deleting(cluster.now)
    return cluster


def finalizers(cluster: SimulatedCluster) -> list[str]:
    found: list[str] = cluster.builder.body["metadata"].get("finalizers", [])
    return found


def end_cleanup(cluster: SimulatedCluster, kind: str) -> None:
    ended = {"type": kind, "status": "True", "lastTransitionTime": stamp(cluster.now)}
    cluster.objects["Job", NAME]["status"] = {"conditions": [ended]}


def cleanup_pod(cluster: SimulatedCluster) -> PodBuilder:
    job = cluster.objects["Job", NAME]["metadata"]
    pod = PodBuilder(f"{NAME}-abcde", job["uid"], "cleanup", job["labels"])
    cluster.put_pod(pod)
    return pod


def test_a_layout_that_is_kept_needs_no_finalizer() -> None:
    cluster = going(ModelBuilder())
    decided = cluster.step()
    assert (decided.apply, decided.delete, decided.finalizer) == ((), (), None)
    assert finalizers(cluster) == []


def test_a_layout_that_was_finished_unseen_before_the_deletion_goes_as_well() -> None:
    cluster = SimulatedCluster(deletable())
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.builder.deleting(cluster.now)
    cluster.settle()
    assert NAME in cluster.names("Job")
    end_cleanup(cluster, "Complete")
    cluster.settle()
    assert (event_reasons(cluster)[-1], finalizers(cluster)) == ("LayoutDeleted", [])


def begin_to_write(cluster: SimulatedCluster) -> None:
    """Let the Job's pod tell which layout it writes."""
    name = cluster.job_pod().running().body["metadata"]["name"]
    cluster.progress[name] = ShardProgress(
        layout_hash=LAYOUT_HASH, objects=2, bytes=9, bytes_done=1, bytes_per_second=1, seconds=1
    )


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_a_layout_that_is_being_cut_goes_when_its_writer_has_gone(seen: bool) -> None:
    cluster = SimulatedCluster(deletable())
    cluster.settle()
    begin_to_write(cluster)
    if seen:
        cluster.settle()
    cluster.builder.deleting(cluster.now)
    while not (ended := cluster.step().delete):
        assert not cluster.model_is_gone
    assert [ref.kind for ref in ended] == ["Job"]
    cluster.settle()
    assert NAME in cluster.names("Job")
    end_cleanup(cluster, "Complete")
    cluster.settle()
    assert (event_reasons(cluster)[-1], finalizers(cluster)) == ("LayoutDeleted", [])


def test_what_a_failed_attempt_began_goes_as_well() -> None:
    cluster = SimulatedCluster(deletable())
    cluster.settle()
    begin_to_write(cluster)
    cluster.settle()
    cluster.progress.clear()
    cluster.end_job("Failed", 4, failure("Unavailable"))
    cluster.pass_time(LIMIT)
    cluster.settle()
    cluster.builder.deleting(cluster.now)
    cluster.settle()
    assert NAME in cluster.names("Job")


def test_a_finished_layout_is_no_unfinished_one() -> None:
    cluster = SimulatedCluster(deletable())
    cluster.settle()
    begin_to_write(cluster)
    cluster.settle()
    assert cluster.model.status.sharding is not None
    assert cluster.model.status.sharding.unfinished_layout == LAYOUT_HASH
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.settle()
    assert cluster.model.status.sharding.unfinished_layout == ""


def test_a_model_that_goes_before_it_has_a_layout_is_not_held() -> None:
    cluster = SimulatedCluster(deletable())
    cluster.settle()
    cluster.builder.deleting(cluster.now)
    cluster.settle()
    assert finalizers(cluster) == []


def test_the_finalizer_is_there_before_there_is_a_layout() -> None:
    cluster = SimulatedCluster(deletable())
    assert cluster.step().finalizer is True
    assert finalizers(cluster) == [FINALIZER]
    assert cluster.settle().finalizer is None


def test_retention_does_not_shape_the_pods() -> None:
    cluster = ready()
    before = cluster.model.status.update_revision
    cluster.builder.with_retention("Delete").at_generation(2)
    cluster.settle()
    assert cluster.model.status.update_revision == before
    assert finalizers(cluster) == [FINALIZER]
    cluster.builder.with_retention("Retain").at_generation(3)
    cluster.settle()
    assert finalizers(cluster) == []


def test_what_uses_the_layout_goes_before_it_is_deleted() -> None:
    cluster = going()
    first = cluster.step()
    assert [ref.kind for ref in first.delete] == ["StatefulSet", "Job"]
    assert first.apply == ()
    second = cluster.step()
    assert [m["metadata"]["name"] for m in second.apply] == [NAME]
    assert not cluster.model_is_gone


def test_a_pod_that_still_writes_is_waited_for() -> None:
    cluster = going()
    cluster.step()
    own = {labels.ROLE: labels.ROLE_SHARD}
    cluster.put_pod(PodBuilder("writer", "uid-gone", "shard", own).running())
    assert cluster.step().apply == ()
    del cluster.objects["Pod", "writer"]
    assert len(cluster.step().apply) == 1


def test_the_cleanup_job_names_the_layout_and_ends_in_bounded_time() -> None:
    cluster = going()
    cluster.settle()
    job = cluster.objects["Job", NAME]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["delete-layout", f"s3://shards/{LAYOUT_HASH}"]
    assert "--storage-endpoint-url" in container["args"]
    assert {e["name"] for e in container["env"]} >= {"STORAGE_AWS_ACCESS_KEY_ID"}
    assert not any(e["name"].startswith("SOURCE_") for e in container["env"])
    assert job["spec"]["activeDeadlineSeconds"] == LIMIT - CLEANUP_MARGIN
    assert job["metadata"]["ownerReferences"][0]["uid"] == "uid-tiny"


def test_the_model_goes_when_its_layout_is_deleted() -> None:
    cluster = going()
    cluster.settle()
    end_cleanup(cluster, "Complete")
    cluster.step()
    assert cluster.model_is_gone
    assert event_reasons(cluster)[-1] == "LayoutDeleted"


def test_a_layout_that_another_model_has_is_kept() -> None:
    cluster = going()
    other = ModelBuilder("other").with_status({"sharding": {"layoutHash": LAYOUT_HASH}})
    other.body["spec"]["source"]["uri"] = "s3://models/same-bytes"
    cluster.neighbours = [other]
    cluster.step()
    assert cluster.model_is_gone
    assert cluster.events[-1].message == (
        f"s3://shards/{LAYOUT_HASH}: ShardedModel models/other uses it"
    )


def test_a_layout_that_another_model_has_asked_for_is_kept() -> None:
    cluster = going()
    cluster.neighbours = [ModelBuilder("other")]
    cluster.step()
    assert event_reasons(cluster)[-1] == "LayoutKept"


@pytest.mark.parametrize(
    "other", [ModelBuilder("other").deleting(), ModelBuilder("other").with_parallelism(tensor=4)]
)
def test_models_that_go_or_have_other_layouts_do_not_keep_it(other: ModelBuilder) -> None:
    cluster = going()
    cluster.neighbours = [other]
    cluster.settle()
    assert NAME in cluster.names("Job")


def test_a_store_that_is_lost_does_not_keep_the_model() -> None:
    cluster = going()
    cluster.settle()
    gone = failure("NotFound", "s3://shards: no such bucket")
    cleanup_pod(cluster).ended(4, gone, at=cluster.now)
    end_cleanup(cluster, "Failed")
    cluster.step()
    assert cluster.model_is_gone
    assert cluster.events[-1].reason == "LayoutNotDeleted"
    assert "no such bucket" in cluster.events[-1].message
    assert f"s3://shards/{LAYOUT_HASH} is left behind" in cluster.events[-1].message


def test_a_secret_that_is_lost_keeps_the_model_until_the_deadline_alone() -> None:
    cluster = going()
    decided = cluster.settle()
    assert decided.requeue_after == LIMIT
    text = 'secret "shards-s3" not found'
    cleanup_pod(cluster).waiting("CreateContainerConfigError", text)
    cluster.pass_time(LIMIT - 1)
    cluster.settle()
    assert not cluster.model_is_gone
    cluster.pass_time(1)
    cluster.step()
    assert cluster.model_is_gone
    assert 'secret "shards-s3" not found' in cluster.events[-1].message


@pytest.mark.parametrize("change", ["no layout", "invalid", "retained"])
def test_a_model_without_a_layout_to_delete_goes_at_once(change: str) -> None:
    cluster = going()
    if change == "no layout":
        del cluster.builder.body["status"]
        for kind, name in [key for key in cluster.objects if key[0] == "Pod"]:
            del cluster.objects[kind, name]  # nor is there who could tell of it
    elif change == "invalid":
        cluster.builder.with_parallelism(tensor=0)
    else:
        cluster.builder.with_retention("Retain")
    cluster.step()
    assert cluster.model_is_gone
    assert (event_reasons(cluster)[-1] == "LayoutNotDeleted") == (change == "invalid")
