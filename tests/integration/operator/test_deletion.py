from __future__ import annotations

import pytest

from tests.integration.operator.world import (
    EVENTS,
    JOBS,
    MODELS,
    SETS,
    Admin,
    Json,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


def storage(admin: Admin) -> Json:
    """A bucket of the test's own: models of other tests would use the layout."""
    return {"uri": f"s3://{admin.namespace}", "retention": "Delete"}


def make_sharded(admin: Admin, kubelet: PaperKubelet, name: str) -> None:
    """Bring a model to its layout."""
    admin.apply_model(name, storage=storage(admin))
    kubelet.finish_job(kubelet.job(name), summary())
    admin.wait_for_condition(name, "Sharded", "True")
    kubelet.sets(name)


def cleanup_job(admin: Admin) -> Json:
    def probe() -> Json | None:
        jobs = [j for j in admin.list(JOBS) if "-delete-" in j["metadata"]["name"]]
        return jobs[0] if jobs else None

    return eventually(probe, "a Job that deletes the layout")


def is_gone(admin: Admin, name: str) -> bool:
    return name not in {m["metadata"]["name"] for m in admin.list(MODELS)}


def reasons(admin: Admin) -> set[str]:
    return {event["reason"] for event in admin.list(EVENTS)}


def test_a_model_waits_for_its_layout_to_be_deleted(admin: Admin, kubelet: PaperKubelet) -> None:
    make_sharded(admin, kubelet, "minilm")
    assert admin.get(MODELS, "minilm")["metadata"]["finalizers"] == ["shardedmodel.dev/layout"]
    admin.request("DELETE", f"{MODELS}/minilm")
    job = cleanup_job(admin)
    assert [s["metadata"]["name"] for s in admin.list(SETS)] == []
    assert not is_gone(admin, "minilm")
    kubelet.finish_job(job, summary())
    eventually(lambda: is_gone(admin, "minilm"), "the model is gone")
    assert "LayoutDeleted" in reasons(admin)


def test_a_layout_that_another_model_uses_is_kept(admin: Admin, kubelet: PaperKubelet) -> None:
    make_sharded(admin, kubelet, "first")
    make_sharded(admin, kubelet, "second")
    admin.request("DELETE", f"{MODELS}/first")
    eventually(lambda: is_gone(admin, "first"), "the model is gone")
    assert "LayoutKept" in reasons(admin)


def test_a_model_that_wants_a_layout_which_is_being_deleted_waits_and_makes_it_anew(
    admin: Admin, kubelet: PaperKubelet
) -> None:
    make_sharded(admin, kubelet, "first")
    admin.request("DELETE", f"{MODELS}/first")
    job = cleanup_job(admin)
    admin.apply_model("second", storage=storage(admin))
    waiting = admin.wait_for_condition("second", "Sharded", "False", "LayoutBeingDeleted")
    assert f"ShardedModel {admin.namespace}/first" in waiting["message"]
    assert [j["metadata"]["name"] for j in admin.list(JOBS)] == [job["metadata"]["name"]]
    kubelet.finish_job(job, summary())
    kubelet.finish_job(kubelet.job("second"), summary())
    admin.wait_for_condition("second", "Sharded", "True")


def test_a_model_whose_retention_is_taken_back_is_free_again(
    admin: Admin, kubelet: PaperKubelet
) -> None:
    make_sharded(admin, kubelet, "minilm")
    admin.apply_model("minilm")

    def freed() -> bool:
        return "finalizers" not in admin.get(MODELS, "minilm")["metadata"]

    eventually(freed, "the finalizer is gone")
