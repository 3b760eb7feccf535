from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_operator.api.problem import Problem
from shardedmodel_operator.api.resource import ShardedModel, read_status
from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.api.validation import MAX_SHOWN, describe
from tests.builders.operator import ModelBuilder


def problems(builder: ModelBuilder) -> list[str]:
    model = builder.build()
    assert (model.spec is None) == bool(model.problems)
    return [str(problem) for problem in model.problems]


def with_source(**fields: Any) -> ModelBuilder:
    builder = ModelBuilder()
    builder.body["spec"]["source"] |= fields
    return builder


def with_cache(**fields: str) -> ModelBuilder:
    return ModelBuilder().with_workers(cache=fields)


def with_template(template: dict[str, Any]) -> ModelBuilder:
    return ModelBuilder().with_workers(template=template)


def with_rank(**fields: Any) -> ModelBuilder:
    """Override fields of the rank container."""
    return with_template({"spec": {"containers": [{"name": "rank", **fields}]}})


def with_rule(**fields: Any) -> ModelBuilder:
    return ModelBuilder().with_spec(sharding={"rules": [{"match": "*", **fields}]})


CASES: list[tuple[str, ModelBuilder, str]] = [
    (
        "no ranks",
        ModelBuilder().with_parallelism(tensor=0),
        "spec.parallelism.tensor: '0' should be greater than or equal to 1",
    ),
    (
        "unknown scheme",
        with_source(uri="ftp://x/y"),
        "spec.source.uri: 'ftp://x/y' is not an address that can be opened; use "
        "s3://bucket/prefix or file:///absolute/path",
    ),
    ("no bucket", with_source(uri="s3://"), "spec.source.uri: 's3://' is not an address"),
    ("relative file", with_source(uri="file://x"), "spec.source.uri: 'file://x' is not"),
    ("empty address", with_source(uri=""), "spec.source.uri: '' String should have at least 1"),
    (
        "no scheme of an endpoint",
        with_source(endpointUrl="minio:9000"),
        "spec.source.endpointUrl: 'minio:9000' is not a URL without credentials",
    ),
    (
        "no name of a region",
        with_source(region="eu central"),
        "spec.source.region: 'eu central' String should match pattern",
    ),
    (
        "storage without bucket",
        ModelBuilder().with_spec(storage={"uri": "gs://x"}),
        "spec.storage.uri: 'gs://x'",
    ),
    (
        "too many ranks",
        ModelBuilder().with_parallelism(tensor=64, pipeline=8, expert=4),
        "spec.parallelism: 2048 ranks are too many; tensor x pipeline x expert must be at most "
        "1024 ranks",
    ),
    (
        "parts of a plain strategy",
        with_rule(strategy="column", parts=["query"]),
        "spec.sharding.rules[0].parts: ['query'] is for the strategy packed, heads or experts "
        "alone; remove it",
    ),
    (
        "inner of a plain strategy",
        with_rule(strategy="packed", inner="row"),
        "spec.sharding.rules[0].inner: 'row' is for the strategy experts alone",
    ),
    (
        "multiple of a plain strategy",
        with_rule(strategy="row", multiple=8),
        "spec.sharding.rules[0].multiple: 8 is for the strategy vocab alone",
    ),
    ("unknown part", with_rule(strategy="packed", parts=["gate"]), "spec.sharding.rules[0].parts"),
    ("part of no size", with_rule(strategy="packed", parts=[0]), "spec.sharding.rules[0].parts"),
    (
        "unknown dtype",
        ModelBuilder().with_spec(sharding={"dtype": "int8"}),
        "spec.sharding.dtype: 'int8' should be 'keep', 'bfloat16', 'float16' or 'float32'",
    ),
    (
        "indivisible",
        ModelBuilder().with_parallelism(tensor=6).with_workers(gpusPerPod=4),
        "spec.workers.gpusPerPod: 4 does not divide the 6 ranks of spec.parallelism; use one of "
        "1, 2, 3, 6",
    ),
    (
        "cache in two places",
        with_cache(size="1Gi", claimName="fast", hostPath="/fast"),
        "spec.workers.cache: has a claim and a path; use one of claimName and hostPath",
    ),
    (
        "cache without a unit",
        with_cache(size="1000"),
        "spec.workers.cache.size: '1000' String should match pattern",
    ),
    (
        "cache outside of its folder",
        with_cache(size="1Gi", hostPath="/models/../etc"),
        "spec.workers.cache.hostPath: '/models/../etc' String should match pattern",
    ),
    ("missing storage", ModelBuilder().without("storage"), "spec.storage: is required"),
    (
        "typing error",
        ModelBuilder().with_workers(gpuPerPod=2),
        "spec.workers.gpuPerPod: is not a field of this release; remove it",
    ),
    (
        "unknown strategy",
        ModelBuilder().with_spec(sharding={"rules": [{"match": "*", "strategy": "diagonal"}]}),
        "spec.sharding.rules[0].strategy: 'diagonal' should be 'column'",
    ),
    (
        "quantity",
        ModelBuilder().with_workers(resources={"limits": {"memory": "lots"}}),
        "spec.workers.resources.limits.memory",
    ),
    ("upper case name", ModelBuilder("Tiny"), "metadata.name: 'Tiny' cannot name a Service"),
    ("long name", ModelBuilder("m" * 64), "metadata.name"),
    (
        "pod fields at the wrong level",
        with_template({"containers": []}),
        "spec.workers.template.containers: is not part of a pod template; use metadata or spec",
    ),
    (
        "section of a wrong type",
        with_template({"spec": []}),
        "spec.workers.template.spec: is not an object",
    ),
    (
        "reserved label",
        with_template({"metadata": {"labels": {"shardedmodel.dev/model": "x"}}}),
        "spec.workers.template.metadata.labels[shardedmodel.dev/model]",
    ),
    (
        "name of the pod",
        with_template({"metadata": {"name": "x"}}),
        "spec.workers.template.metadata.name: cannot be overridden",
    ),
    (
        "labels of a wrong type",
        with_template({"metadata": {"labels": "x"}}),
        "spec.workers.template.metadata.labels: is not an object",
    ),
    (
        "command of ranks",
        with_rank(command=["sh"]),
        "spec.workers.template.spec.containers[0].command: is the operator's; use "
        "spec.workers.entrypoint",
    ),
    (
        "arguments of ranks",
        with_rank(args=[]),
        "spec.workers.template.spec.containers[0].args: is the operator's",
    ),
    (
        "image of ranks",
        with_rank(image="mine:1"),
        "spec.workers.template.spec.containers[0].image: would not reach the pre-shard Job; use "
        "spec.workers.image",
    ),
    (
        "place of last words",
        with_rank(terminationMessagePath="/x"),
        "spec.workers.template.spec.containers[0].terminationMessagePath: is where",
    ),
    (
        "place of a rank",
        with_rank(env=[{"name": "A", "value": "1"}, {"name": "MASTER_ADDR", "value": "x"}]),
        "spec.workers.template.spec.containers[0].env[1].name: MASTER_ADDR is how a rank knows its "
        "place; remove it",
    ),
    (
        "port of the rendezvous",
        with_rank(ports=[{"containerPort": 29500, "name": "mine"}]),
        "spec.workers.template.spec.containers[0].ports[0].containerPort: 29500 is the operator's "
        "own; use another",
    ),
    (
        "name of the host",
        with_template({"spec": {"subdomain": "x"}}),
        "spec.workers.template.spec.subdomain: ranks find each other by the names of their pods",
    ),
    (
        "restarts",
        with_template({"spec": {"restartPolicy": "Never"}}),
        "spec.workers.template.spec.restartPolicy: ranks are always restarted",
    ),
    (
        "network of the host without its names",
        with_template({"spec": {"hostNetwork": True}}),
        "spec.workers.template.spec.hostNetwork: ranks would not find rank 0 by its name; set "
        "dnsPolicy: ClusterFirstWithHostNet",
    ),
    (
        "directive of kubectl",
        with_template({"spec": {"volumes": [{"name": "tmp", "$patch": "delete"}]}}),
        "spec.workers.template.spec.volumes[0].$patch: is not known; null removes a field",
    ),
    (
        "two affinities",
        with_template({"spec": {"affinity": {"podAffinity": {}}}}).with_workers(
            exclusiveTopology="topology.kubernetes.io/rack"
        ),
        "spec.workers.template.spec.affinity.podAffinity: is what spec.workers.exclusiveTopology "
        "sets; use one of them",
    ),
    (
        "topology that is no label",
        ModelBuilder().with_workers(exclusiveTopology="a b"),
        "spec.workers.exclusiveTopology: 'a b' String should match pattern",
    ),
    (
        "container without a name",
        with_template({"spec": {"containers": [{"image": "x"}]}}),
        "spec.workers.template.spec.containers[0].name: is required",
    ),
    (
        "variable that is a text",
        with_template({"spec": {"containers": [{"name": "rank", "env": ["A=B"]}]}}),
        "spec.workers.template.spec.containers[0].env[0].name: is required",
    ),
    (
        "mount that is null",
        with_template({"spec": {"containers": [{"name": "rank", "volumeMounts": [None]}]}}),
        "spec.workers.template.spec.containers[0].volumeMounts[0].mountPath: is required",
    ),
    (
        "ports of a wrong type",
        with_template({"spec": {"containers": [{"name": "rank", "ports": {}}]}}),
        "spec.workers.template.spec.containers[0].ports: is not a list",
    ),
    (
        "containers of a wrong type",
        with_template({"spec": {"containers": {"name": "rank"}}}),
        "spec.workers.template.spec.containers: is not a list",
    ),
]


@pytest.mark.parametrize(
    ("builder", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_bad_spec_is_told_with_field_value_and_what_to_do(
    builder: ModelBuilder, words: str
) -> None:
    assert any(problem.startswith(words) for problem in problems(builder)), problems(builder)


def test_a_good_spec_has_no_problems() -> None:
    assert problems(ModelBuilder()) == []


@pytest.mark.parametrize("url", ["http://s3.storage:8333", "https://s3.example/base", ""])
def test_endpoints_of_s3_servers_are_accepted(url: str) -> None:
    assert problems(with_source(endpointUrl=url)) == []


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://b-1/deep/prefix/", "file:///mnt/models"])
def test_addresses_that_can_be_opened_are_accepted(uri: str) -> None:
    assert problems(with_source(uri=uri)) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"strategy": "packed", "parts": ["query", "key", "value"]},
        {"strategy": "packed", "parts": [2, 1, 1], "transposed": True},
        {"strategy": "experts", "inner": "packed"},
        {"strategy": "vocab", "multiple": 128, "uneven": "chunk"},
    ],
)
def test_every_field_of_a_rule_has_its_strategy(rule: dict[str, Any]) -> None:
    assert problems(with_rule(**rule)) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
        {"containers": [{"name": "sidecar", "image": "x", "command": ["sh"]}]},
        {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}]},
        {"schedulerName": "volcano", "priorityClassName": "high", "runtimeClassName": "nvidia"},
        {"affinity": {"nodeAffinity": {}}, "topologySpreadConstraints": []},
    ],
)
def test_what_does_not_break_ranks_is_the_users_to_say(spec: dict[str, Any]) -> None:
    builder = with_template({"spec": spec}).with_workers(exclusiveTopology="rack")
    assert problems(builder) == []


def test_all_problems_are_told_at_once() -> None:
    builder = with_source(uri="ftp://x").with_parallelism(tensor=2000)
    builder.body["spec"]["storage"]["uri"] = "ftp://y"
    builder.with_workers(entrypoint="no function")
    assert len(problems(builder)) == 2


def test_a_long_list_of_problems_is_cut_and_counted() -> None:
    many = tuple(Problem(f"f{n}", "is wrong") for n in range(MAX_SHOWN + 3))
    assert describe(many).endswith("f9: is wrong; and 3 more")


@pytest.mark.parametrize("field", ["uri", "endpointUrl"])
def test_a_password_in_an_address_is_not_repeated(field: str) -> None:
    (problem,) = problems(with_source(**{field: "http+x://me:hunter2@host/y"}))
    assert "hunter2" not in problem


def test_a_status_of_another_release_counts_as_lost() -> None:
    assert read_status({"phase": "Flying"}) == ShardedModelStatus()


def test_a_resource_without_a_status_begins_at_minus_one() -> None:
    assert ModelBuilder().build().status.observed_generation == -1


def test_a_resource_without_a_spec_is_told_what_it_lacks() -> None:
    builder = ModelBuilder()
    del builder.body["spec"]
    assert "spec.source: is required" in [str(p) for p in builder.build().problems]


def test_credentials_are_no_part_of_the_request() -> None:
    other = with_source(credentialsSecretRef={"name": "other"})
    assert other.request == ModelBuilder().request


@pytest.mark.parametrize("changed", [with_source(revision="2"), with_source(uri="s3://other")])
def test_what_is_read_makes_another_request(changed: ModelBuilder) -> None:
    assert changed.request != ModelBuilder().request


def test_deletion_is_seen() -> None:
    model: ShardedModel = ModelBuilder().deleting().build()
    assert model.deleting
