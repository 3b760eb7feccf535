from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_operator.cluster import cache as cache_module
from shardedmodel_operator.cluster.cache import Key, ObjectCache, key_of
from shardedmodel_operator.cluster.resources import (
    BUDGETS,
    JOBS,
    MODELS,
    PODS,
    POLICIES,
    SERVICES,
    STATEFULSETS,
)
from tests.unit.operator.cluster.builders import child_body, model_body

LLAMA = Key("team-a", "llama")


def cached_version(cache: ObjectCache) -> str:
    body = cache.model(LLAMA)
    assert body is not None
    version: str = body["metadata"]["resourceVersion"]
    return version


def test_a_model_is_found_by_its_key() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body())
    assert cache.model(LLAMA) is not None
    assert cache.model(Key("team-b", "llama")) is None


def test_managed_fields_are_not_kept() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body())
    body = cache.model(LLAMA)
    assert body is not None
    assert "managedFields" not in body["metadata"]


def test_an_older_state_does_not_replace_a_newer_one() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body(version=10))
    cache.put(MODELS, model_body(version=9))
    assert cached_version(cache) == "10"


def test_versions_are_compared_as_numbers() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body(version=9))
    cache.put(MODELS, model_body(version=10))
    assert cached_version(cache) == "10"


def test_a_late_event_cannot_revive_a_deleted_object() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body(version=1))
    cache.remove(MODELS, "model-uid", 3)
    cache.put(MODELS, model_body(version=2))
    assert cache.model(LLAMA) is None


def test_an_object_that_lost_its_label_comes_back_with_it() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body(version=1))
    cache.remove(JOBS, "child-uid", 2)
    cache.put(JOBS, child_body(version=3))
    assert len(cache.observe(LLAMA).jobs) == 1


def test_what_the_server_was_told_to_delete_is_gone_before_its_event_comes() -> None:
    cache = ObjectCache()
    cache.put(STATEFULSETS, child_body("StatefulSet", version=1))
    cache.doom(STATEFULSETS, "child-uid")
    late = child_body("StatefulSet", version=2)
    cache.put(STATEFULSETS, late)
    assert cache.observe(LLAMA).stateful_sets == ()
    assert cache.knows(STATEFULSETS, late)


def test_what_goes_slowly_is_seen_on_its_way_out() -> None:
    cache = ObjectCache()
    cache.doom(JOBS, "child-uid")
    going = child_body(version=2)
    going["metadata"]["deletionTimestamp"] = "2026-11-23T08:24:06Z"
    cache.put(JOBS, going)
    assert [job.meta.deleting for job in cache.observe(LLAMA).jobs] == [True]


def test_a_model_made_anew_under_the_same_name_is_seen() -> None:
    cache = ObjectCache()
    cache.put(MODELS, model_body(uid="old", version=1))
    cache.put(MODELS, model_body(uid="new", version=2))
    body = cache.model(LLAMA)
    assert body is not None
    assert body["metadata"]["uid"] == "new"


def test_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "TOMBSTONES", 2)
    cache = ObjectCache()
    for uid in ("a", "b", "c"):
        cache.remove(MODELS, uid, 1)
        cache.doom(MODELS, f"doomed-{uid}")
    known = [
        [cache.knows(MODELS, model_body(uid=prefix + uid, version=1)) for uid in ("a", "b", "c")]
        for prefix in ("", "doomed-")
    ]
    assert known == [[False, True, True]] * 2


def test_what_is_held_newer_or_of_nobody_is_no_news() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body(version=2))
    states = [child_body(version=1), child_body(version=2), child_body(model=None, uid="theirs")]
    assert [cache.knows(JOBS, state) for state in states] == [True, True, True]
    assert not cache.knows(JOBS, child_body(version=3))
    assert cache.owner(JOBS, "child-uid") == LLAMA


def test_a_model_is_observed_with_its_own_children_only() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body(uid="mine"))
    cache.put(JOBS, child_body(uid="other", model="bert"))
    assert [job.meta.uid for job in cache.observe(LLAMA).jobs] == ["mine"]


def test_children_of_every_kind_are_observed() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body("Job"))
    cache.put(PODS, child_body("Pod"))
    cache.put(SERVICES, child_body("Service"))
    cache.put(STATEFULSETS, child_body("StatefulSet"))
    cache.put(POLICIES, child_body("NetworkPolicy"))
    cache.put(BUDGETS, child_body("PodDisruptionBudget"))
    seen = cache.observe(LLAMA)
    assert sorted(kind for kind, _ in seen.named()) == [
        *("Job", "NetworkPolicy", "PodDisruptionBudget", "Service", "StatefulSet")
    ]
    assert len(seen.pods) == 1


def test_an_object_without_a_model_is_not_kept() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body(model=None))
    assert cache.versions(JOBS) == {}


def test_a_child_that_loses_its_label_leaves_its_model() -> None:
    cache = ObjectCache()
    cache.put(JOBS, child_body(version=1))
    cache.put(JOBS, child_body(version=2, model=None))
    assert cache.observe(LLAMA).jobs == ()


def test_removing_what_is_unknown_is_harmless() -> None:
    cache = ObjectCache()
    cache.remove(JOBS, "unknown", 1)
    assert cache.versions(JOBS) == {}


def test_a_child_belongs_to_the_model_that_its_label_names() -> None:
    assert key_of(JOBS, child_body()) == LLAMA
    assert key_of(JOBS, child_body(model=None)) is None
    assert str(LLAMA) == "team-a/llama"


def neighbour(
    name: str, storage: str = "s3://shards", source: str = "s3://models/llama", layout: str = ""
) -> dict[str, Any]:
    body = model_body(name, uid=f"uid-{name}")
    body["spec"] = {"storage": {"uri": storage}, "source": {"uri": source}}
    body["status"] = {"sharding": {"layoutHash": layout}}
    return body


def names_of_neighbours(own: dict[str, Any], *others: dict[str, Any]) -> list[str]:
    cache = ObjectCache()
    for body in (own, *others):
        cache.put(MODELS, body)
    return [body["metadata"]["name"] for body in cache.neighbours(own)]


def test_neighbours_keep_layouts_of_the_same_source_at_the_same_address() -> None:
    broken = model_body("broken", uid="uid-broken")
    broken["spec"] = {"storage": None, "source": None}
    others = (
        neighbour("near", storage="s3://shards/", source="s3://models/llama/"),
        neighbour("far", storage="s3://other"),
        neighbour("different", source="s3://models/bert"),
        broken,
    )
    assert names_of_neighbours(model_body(), *others) == ["near"]


@pytest.mark.parametrize("field", ["layoutHash", "unfinishedLayout"])
def test_who_has_the_same_layout_is_a_neighbour_whatever_its_source_is_called(field: str) -> None:
    own = model_body()
    own["status"] = {"sharding": {field: "aa"}}
    others = (
        neighbour("same", source="s3://mirror/llama", layout="aa"),
        neighbour("another", source="s3://mirror/bert", layout="bb"),
        neighbour("none", source="s3://mirror/none"),
    )
    assert names_of_neighbours(own, *others) == ["same"]


def test_models_that_stay_are_told_of_neighbours_that_go_alone() -> None:
    cache, own = ObjectCache(), model_body()
    going = model_body("going", uid="uid-going")
    going["metadata"]["deletionTimestamp"] = "2026-11-23T03:00:00Z"
    for body in (own, going, model_body("near", uid="uid-near")):
        cache.put(MODELS, body)
    assert [m["metadata"]["name"] for m in cache.neighbours(own, leaving=True)] == ["going"]
    cache.remove(MODELS, "uid-going", 2)
    assert cache.neighbours(own, leaving=True) == []


def test_sets_of_other_models_are_told_with_their_namespace() -> None:
    cache = ObjectCache()
    cache.put(STATEFULSETS, child_body("StatefulSet", uid="own"))
    cache.put(STATEFULSETS, child_body("StatefulSet", uid="others", model="bert"))
    assert [(n, m.uid) for n, m in cache.neighbouring_sets(LLAMA)] == [("team-a", "others")]
