from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kubernetes
import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.configuration import load_configuration
from shardedmodel_operator.cluster.resources import BUDGETS, EVENTS, JOBS, MODELS, SERVICES, WATCHED
from shardedmodel_operator.errors import (
    ClusterAccessDenied,
    ClusterError,
    ClusterUnavailable,
    NotLeading,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from shardedmodel_operator.reconciling.leadership import Tenure
from tests.unit.operator.cluster.builders import child_body, model_body


class FakeApi:
    """Stands for ``ApiClient``: keeps the requests, gives prepared answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, str], Any, str]] = []

        self.configuration = SimpleNamespace(host="https://10.0.0.1")
        self.rest_client = self

    def update_params_for_auth(self, headers: dict[str, str], *_: object) -> None:
        headers["authorization"] = "Bearer abc"

    def request(self, method: str, url: str, **options: Any) -> Any:
        path = url.removeprefix("https://10.0.0.1")
        query = dict(options["query_params"])
        content_type = options["headers"]["Content-Type"]
        self.requests.append((method, path, query, options["body"], content_type))
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return SimpleNamespace(data=data, status=200)

    def close(self) -> None:
        self.requests.clear()


def refusal(status: int, body: str = '{"message": "no such thing"}') -> ApiException:
    error = ApiException(status=status, reason="Because")
    error.body = body.encode()
    return error


def test_apply_is_server_side_and_forced() -> None:
    api = FakeApi()
    Cluster(api).apply(child_body())
    method, path, query, _, content_type = api.requests[0]
    assert (method, path) == ("PATCH", "/apis/batch/v1/namespaces/team-a/jobs/llama-shard")
    assert query == {"fieldManager": "shardedmodel-operator", "force": "true"}
    assert content_type == "application/apply-patch+yaml"


def test_the_status_is_replaced_whole_on_its_subresource() -> None:
    api = FakeApi()
    Cluster(api).replace_status(model_body(), {"phase": "Ready"})
    _, path, _, operations, content_type = api.requests[0]
    assert path.endswith("/shardedmodels/llama/status")
    assert operations[1] == {"op": "add", "path": "/status", "value": {"phase": "Ready"}}
    assert content_type == "application/json-patch+json"


def test_a_status_is_never_written_to_a_namesake() -> None:
    api = FakeApi()
    Cluster(api).replace_status(model_body(uid="u-1"), {})
    assert api.requests[0][3][0] == {"op": "test", "path": "/metadata/uid", "value": "u-1"}


@pytest.mark.parametrize(("present", "kept"), [(True, ["theirs", "ours"]), (False, ["theirs"])])
def test_a_finalizer_is_set_beside_those_of_others(present: bool, kept: list[str]) -> None:
    api, body = FakeApi(), model_body(version=7)
    body["metadata"]["finalizers"] = ["theirs"] if present else ["ours", "theirs"]
    Cluster(api).set_finalizer(body, "ours", present)
    method, path, _, patch, content_type = api.requests[0]
    assert (method, path.rpartition("/")[2]) == ("PATCH", "llama")
    # The version makes the server refuse when somebody else set theirs meanwhile.
    assert patch == {"metadata": {"finalizers": kept, "resourceVersion": "7"}}
    assert content_type == "application/merge-patch+json"


def test_a_delete_names_the_uid_and_takes_dependants_along() -> None:
    api = FakeApi()
    Cluster(api).delete(JOBS, "team-a", "llama-shard", "u-1")
    options = api.requests[0][3]
    assert options["preconditions"] == {"uid": "u-1"}
    assert options["propagationPolicy"] == "Background"


@pytest.mark.parametrize("status", [404, 409])
def test_deleting_what_is_gone_or_replaced_is_no_error(status: int) -> None:
    Cluster(FakeApi(refusal(status))).delete(JOBS, "team-a", "llama-shard", "u-1")


def test_budgets_are_watched_where_the_server_has_them() -> None:
    api = FakeApi({"resources": [{"name": "poddisruptionbudgets"}, {"name": "others"}]})
    assert Cluster(api).watched() == (*WATCHED, BUDGETS)
    assert api.requests[0][:2] == ("GET", "/apis/policy/v1")


@pytest.mark.parametrize("answer", [refusal(404), {"resources": []}])
def test_a_server_without_budgets_is_fine(answer: Any) -> None:
    assert Cluster(FakeApi(answer)).watched() == WATCHED


def test_a_server_that_does_not_say_what_it_has_is_an_error() -> None:
    with pytest.raises(ClusterUnavailable):
        Cluster(FakeApi(refusal(503))).watched()


def test_a_list_is_read_page_by_page() -> None:
    api = FakeApi(
        {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]},
        {"metadata": {}, "items": [{"metadata": {"name": "b"}}]},
    )
    pages = list(Cluster(api).list_pages(SERVICES, "team-a", "app=x"))
    assert [[item["metadata"]["name"] for item in page] for page in pages] == [["a"], ["b"]]
    assert [request[2].get("continue") for request in api.requests] == [None, "more"]
    assert api.requests[0][2]["labelSelector"] == "app=x"


def test_listed_objects_say_what_they_are() -> None:
    api = FakeApi({"items": [{"metadata": {}}]})
    assert next(Cluster(api).list_pages(MODELS, None))[0]["kind"] == "ShardedModel"
    assert api.requests[0][1] == "/apis/shardedmodel.dev/v1alpha1/shardedmodels"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ObjectRejected),
        (401, ClusterAccessDenied),
        (403, ClusterAccessDenied),
        (404, ObjectNotFound),
        (409, ObjectConflict),
        (413, ObjectRejected),
        (422, ObjectRejected),
        (429, ClusterUnavailable),
        (500, ClusterUnavailable),
        (503, ClusterUnavailable),
        (0, ClusterUnavailable),
    ],
)
def test_each_refusal_has_its_error(status: int, kind: type[ClusterError]) -> None:
    with pytest.raises(kind, match="no such thing") as caught:
        Cluster(FakeApi(refusal(status))).apply(child_body())
    assert caught.value.status == status


def test_a_field_that_an_old_server_does_not_know_is_a_rejection() -> None:
    answer = '{"message": "failed to create typed patch object: .spec.x: not declared"}'
    with pytest.raises(ObjectRejected, match=r"\.spec\.x"):
        Cluster(FakeApi(refusal(500, answer))).apply(child_body())


def test_a_service_without_an_address_is_refused_like_by_a_quota() -> None:
    answer = '{"message": "Internal error: failed to allocate a serviceIP: range is full"}'
    with pytest.raises(ClusterAccessDenied, match="range is full"):
        Cluster(FakeApi(refusal(500, answer))).apply(child_body("Service"))


@pytest.mark.parametrize("body", ["plain text", "[]", '{"reason": "x"}'])
def test_an_answer_that_is_no_status_object_is_shown_as_it_is(body: str) -> None:
    with pytest.raises(ObjectNotFound) as caught:
        Cluster(FakeApi(refusal(404, body))).apply(child_body())
    assert body in caught.value.message


def test_a_failed_tls_handshake_says_what_failed() -> None:
    error = ApiException(status=0, reason="SSLError certificate verify failed")
    with pytest.raises(ClusterUnavailable, match="certificate verify failed"):
        Cluster(FakeApi(error)).apply(child_body())


def test_a_timeout_is_retryable() -> None:
    error = urllib3.exceptions.ReadTimeoutError(None, "url", "slow")  # type: ignore[arg-type]
    with pytest.raises(ClusterUnavailable) as caught:
        Cluster(FakeApi(error)).apply(child_body())
    assert caught.value.retryable


def test_an_answer_that_is_not_json_is_retryable() -> None:
    with pytest.raises(ClusterUnavailable, match="not JSON"):
        Cluster(FakeApi(b"<html>")).apply(child_body())


def test_calls_are_counted_by_the_verbs_of_rbac() -> None:
    cluster = Cluster(FakeApi())
    cluster.apply(child_body())
    cluster.merge(EVENTS, "team-a", "e", {"count": 2})
    cluster.create(EVENTS, child_body("Event"))
    next(cluster.list_pages(JOBS, "team-a"))
    cluster.delete(JOBS, "team-a", "x", "u")
    assert cluster.calls == {
        ("patch", "jobs", "200"): 1,
        ("patch", "events", "200"): 1,
        ("create", "events", "200"): 1,
        ("list", "jobs", "200"): 1,
        ("delete", "jobs", "200"): 1,
    }


def test_calls_that_fail_are_counted_by_their_answer() -> None:
    error = urllib3.exceptions.ReadTimeoutError(None, "url", "slow")  # type: ignore[arg-type]
    cluster = Cluster(FakeApi(refusal(403), error))
    for _ in range(2):
        with pytest.raises(ClusterError):
            next(cluster.list_pages(JOBS, "team-a"))
    assert cluster.calls == {("list", "jobs", "403"): 1, ("list", "jobs", "none"): 1}


def test_a_replacement_is_a_put_that_names_the_version() -> None:
    api = FakeApi()
    Cluster(api).replace(JOBS, child_body())
    (method, path, _, body, _), *_ = api.requests
    assert (method, path) == ("PUT", JOBS.path("team-a", child_body()["metadata"]["name"]))
    assert "resourceVersion" in body["metadata"]


def test_what_the_guard_forbids_is_not_sent() -> None:
    api = FakeApi()
    cluster = Cluster(api)
    cluster.guard = Tenure(lambda: 0.0).act
    writes: list[Callable[[], object]] = [
        lambda: cluster.apply(child_body()),
        lambda: cluster.create(EVENTS, child_body("Event")),
        lambda: cluster.replace(JOBS, child_body()),
        lambda: cluster.merge(EVENTS, "team-a", "e", {}),
        lambda: cluster.replace_status(model_body(), {}),
        lambda: cluster.delete(JOBS, "team-a", "x", "u"),
    ]
    for write in writes:
        with pytest.raises(NotLeading):
            write()
    assert api.requests == []


def test_reading_is_never_forbidden() -> None:
    cluster = Cluster(FakeApi())
    cluster.guard = Tenure(lambda: 0.0).act
    assert next(cluster.list_pages(JOBS, None)) == []


def test_closing_closes_the_connections() -> None:
    api = FakeApi()
    cluster = Cluster(api)
    cluster.apply(child_body())
    cluster.close()
    assert api.requests == []


def test_without_a_cluster_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(**_: Any) -> None:
        raise kubernetes.config.ConfigException("nothing here")

    monkeypatch.setattr(kubernetes.config, "load_kube_config", nothing)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", nothing)
    with pytest.raises(ClusterUnavailable, match="set KUBECONFIG"):
        load_configuration()


def test_in_a_pod_the_service_account_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(**_: Any) -> None:
        raise kubernetes.config.ConfigException("no kubeconfig")

    def account(client_configuration: kubernetes.client.Configuration) -> None:
        client_configuration.host = "https://10.0.0.1"

    monkeypatch.setattr(kubernetes.config, "load_kube_config", nothing)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", account)
    assert load_configuration().host == "https://10.0.0.1"


def test_empty_texts_of_a_status_are_left_out() -> None:
    api = FakeApi()
    status = {"phase": "", "replicas": 0, "ranks": [{"id": 0, "message": ""}]}
    Cluster(api).replace_status(model_body(), status)
    assert api.requests[0][3][1]["value"] == {"replicas": 0, "ranks": [{"id": 0}]}
