"""Who may talk to whom where a spec asks for NetworkPolicies, and that nothing starts without."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes_validate import validate  # type: ignore[import-untyped]

from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.network import network_policies, store_port
from tests.builders.operator import ModelBuilder
from tests.network_rules import End, may_connect
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import ready

Json = dict[str, Any]

RANK = End(labels.common("tiny", labels.ROLE_RANK) | {labels.REVISION: "a", labels.GROUP: "0"})
OTHER_GROUP = End({**RANK.labels, labels.GROUP: "1"})
JOB = End(labels.common("tiny", labels.ROLE_SHARD))
CLEANUP = End(labels.common("tiny", labels.ROLE_CLEANUP))
OTHER_MODEL = End(labels.common("other", labels.ROLE_RANK))
OPERATOR = End({"app.kubernetes.io/name": "shardedmodel-operator"}, "system")
CLIENT = End({"app": "client"})
STRANGER = End({"app": "client"}, "elsewhere")
STORE = End(address="203.0.113.7")
METADATA = End(address="169.254.169.254")

CLIENTS = [{"podSelector": {"matchLabels": {"app": "client"}}}]


def isolated(**terms: object) -> ModelBuilder:
    return ModelBuilder().with_spec(networkPolicy=terms)


def policies(builder: ModelBuilder) -> list[Json]:
    model = builder.build()
    assert model.spec is not None, model.problems
    return network_policies(model, model.spec)


def may(builder: ModelBuilder, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    return may_connect(policies(builder), source, target, port, protocol)


def test_without_being_asked_there_is_none() -> None:
    assert policies(ModelBuilder()) == []


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_policies_match_kubernetes_schemas(version: str) -> None:
    for policy in policies(isolated(clients=CLIENTS, egress=[{"ports": [{"port": 3128}]}])):
        validate(policy, version, strict=True)


def test_policies_go_with_their_model() -> None:
    for policy in policies(isolated()):
        (owner,) = policy["metadata"]["ownerReferences"]
        assert owner["uid"] == "uid-tiny"
        assert policy["metadata"]["namespace"] == "models"


def test_ranks_of_a_model_reach_each_other_on_any_port() -> None:
    for port in (29500, 8080, 41234):
        assert may(isolated(), RANK, OTHER_GROUP, port)


def test_nobody_else_reaches_the_ports_of_the_group() -> None:
    for other in (OTHER_MODEL, CLIENT, OPERATOR, JOB):
        assert not may(isolated(), other, RANK, 29500)


@pytest.mark.parametrize("pod", [RANK, JOB], ids=["rank", "job"])
def test_the_operator_pulls_reports_also_where_clients_are_named(pod: End) -> None:
    assert may(isolated(clients=CLIENTS), OPERATOR, pod, 8080)


def test_without_named_clients_everybody_may_call() -> None:
    assert may(isolated(), STRANGER, RANK, 8080)


def test_named_clients_may_call_and_others_may_not() -> None:
    builder = isolated(clients=CLIENTS)
    assert may(builder, CLIENT, RANK, 8080)
    assert not may(builder, STRANGER, RANK, 8080)
    assert not may(builder, OTHER_MODEL, RANK, 8080)


def test_ports_that_the_template_declares_are_for_clients_too() -> None:
    ports = [{"containerPort": 9000}, {"containerPort": 9001, "protocol": "UDP"}]
    template = {"spec": {"containers": [{"name": "rank", "ports": ports}]}}
    builder = isolated(clients=CLIENTS).with_workers(template=template)
    assert may(builder, CLIENT, RANK, 9000)
    assert may(builder, CLIENT, RANK, 9001, "UDP")
    assert not may(builder, STRANGER, RANK, 9000)


@pytest.mark.parametrize("pod", [RANK, JOB, CLEANUP], ids=["rank", "job", "cleanup"])
def test_every_pod_finds_names_and_its_store_and_nothing_else(pod: End) -> None:
    builder = isolated()
    assert may(builder, pod, End(), 53, "UDP")
    assert may(builder, pod, End(), 53)
    assert may(builder, pod, STORE, 8333)
    assert not may(builder, pod, STORE, 443)
    assert not may(builder, pod, METADATA, 80)
    assert not may(builder, pod, End(address="10.96.0.1"), 443)


def test_the_source_is_for_the_job_alone() -> None:
    builder = isolated()
    builder.body["spec"]["source"]["endpointUrl"] = "https://s3.example:9443"
    assert may(builder, JOB, STORE, 9443)
    assert not may(builder, RANK, STORE, 9443)


def test_pods_without_a_secret_reach_what_gives_a_service_account_its_credentials() -> None:
    builder = isolated()
    del builder.body["spec"]["storage"]["credentialsSecretRef"]
    assert may(builder, RANK, METADATA, 80)
    assert may(builder, RANK, METADATA, 988)
    assert may(builder, RANK, STORE, 443)


def test_volumes_need_no_network() -> None:
    volume = {"uri": "file:///data"}
    builder = isolated().with_spec(source=volume, storage=volume)
    assert not may(builder, JOB, STORE, 443)
    assert not may(builder, JOB, METADATA, 80)


def test_what_the_user_lets_out_is_let_out() -> None:
    builder = isolated(egress=[{"ports": [{"port": 3128, "protocol": "TCP"}]}])
    assert may(builder, RANK, STORE, 3128)
    assert may(builder, JOB, STORE, 3128)


def test_other_pods_of_the_namespace_are_left_alone() -> None:
    builder = isolated(clients=CLIENTS)
    assert may(builder, CLIENT, OTHER_MODEL, 1234)
    assert may(builder, STRANGER, CLIENT, 80)


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("", 443),
        ("https://s3.example", 443),
        ("http://s3.storage/path", 80),
        ("http://s3.storage:8333", 8333),
        ("http://[fd00::1]:9000/path", 9000),
        ("https://[fd00::1]", 443),
    ],
)
def test_a_stores_port_is_in_its_url(url: str, port: int) -> None:
    assert store_port(url) == port


# What the planner does about them


def test_no_pod_is_started_before_the_policies_are_there() -> None:
    cluster = SimulatedCluster(isolated())
    first = cluster.step()
    assert [m["kind"] for m in first.apply] == ["NetworkPolicy", "NetworkPolicy"]
    assert first.requeue_after == cluster.settings.poll_seconds
    assert [m["kind"] for m in cluster.step().apply] == ["Job"]
    assert cluster.names("NetworkPolicy") == ["tiny-jobs", "tiny-ranks"]


def test_a_policy_that_somebody_deleted_is_made_again() -> None:
    cluster = ready(isolated())
    del cluster.objects["NetworkPolicy", "tiny-ranks"]
    assert [m["metadata"]["name"] for m in cluster.step().apply] == ["tiny-ranks"]


def test_other_terms_are_applied_and_roll_nothing() -> None:
    cluster = ready(isolated())
    before = cluster.names("StatefulSet")
    cluster.builder.with_spec(networkPolicy={"clients": CLIENTS}).at_generation(2)
    decided = cluster.step()
    assert {m["kind"] for m in decided.apply} == {"NetworkPolicy"}
    cluster.settle()
    assert cluster.names("StatefulSet") == before
    assert cluster.model.status.holds("Ready")


def test_policies_that_are_not_asked_for_any_more_go() -> None:
    cluster = ready(isolated())
    del cluster.builder.body["spec"]["networkPolicy"]
    cluster.builder.at_generation(2)
    cluster.settle()
    assert cluster.names("NetworkPolicy") == []
    assert cluster.model.status.holds("Ready")


def test_a_policy_of_somebody_elses_stays() -> None:
    cluster = ready()
    theirs = {"name": "theirs", "uid": "u", "labels": {labels.MODEL: "tiny"}}
    cluster.objects["NetworkPolicy", "theirs"] = {"metadata": theirs, "spec": {}}
    cluster.settle()
    assert cluster.names("NetworkPolicy") == ["theirs"]


def test_ranks_are_stopped_also_while_a_policy_is_missing() -> None:
    cluster = ready(isolated())
    cluster.builder.with_spec(suspend=True, networkPolicy={"clients": CLIENTS}).at_generation(2)
    kinds = {m["kind"]: m for m in cluster.step().apply}
    assert kinds["StatefulSet"]["spec"]["replicas"] == 0


def test_a_cleanup_job_runs_under_the_policies_of_its_model() -> None:
    cluster = ready(isolated().with_retention("Delete"))
    cluster.builder.deleting(cluster.now)
    cluster.settle()
    (job,) = (j for j in cluster.of_kind("Job") if "-delete-" in j["metadata"]["name"])
    pod = End(job["spec"]["template"]["metadata"]["labels"])
    assert not may_connect(cluster.of_kind("NetworkPolicy"), pod, STORE, 443)
