"""What Job and rank pods look like: the contract with the runtime, and the restricted profile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes_validate import validate  # type: ignore[import-untyped]

from shardedmodel_operator.planning import group as desired
from shardedmodel_operator.planning import labels, services
from shardedmodel_operator.planning.group import Layout
from shardedmodel_operator.planning.job import shard_job
from shardedmodel_operator.planning.names import group_name, job_name
from tests.builders.operator import LAYOUT_HASH, SETTINGS, ModelBuilder

LAYOUT = Layout(LAYOUT_HASH, f"s3://shards/{LAYOUT_HASH}", 100_000_000_000)
REVISION = "fedcba9876543210fedc"


def a_job(builder: ModelBuilder | None = None) -> dict[str, Any]:
    model = (builder or ModelBuilder()).build()
    assert model.spec is not None, model.problems
    return shard_job(model, model.spec, "0" * 20, 1, SETTINGS)


def a_set(builder: ModelBuilder | None = None) -> dict[str, Any]:
    model = (builder or ModelBuilder()).build()
    assert model.spec is not None, model.problems
    return desired.stateful_set(model, model.spec, LAYOUT, REVISION, 0, SETTINGS)


def revision(builder: ModelBuilder, layout: Layout = LAYOUT) -> str:
    model = builder.build()
    assert model.spec is not None
    return desired.revision_of(model.spec, layout, SETTINGS)


def pod_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = pod_spec(manifest)["containers"][0]
    return first


def env(manifest: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item for item in container(manifest)["env"]}


RICH = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
    "spec": {
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [
            {
                "name": "rank",
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            },
            {"name": "sidecar", "image": "side:1"},
        ],
    },
}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("template", [{}, RICH], ids=["plain", "rich"])
def test_all_objects_match_kubernetes_schemas(version: str, template: dict[str, Any]) -> None:
    builder = ModelBuilder().with_workers(template=template, backend="auto")
    model = builder.build()
    for manifest in (
        a_job(builder),
        a_set(builder),
        services.headless_service(model, REVISION, 0),
        services.endpoint_service(model, REVISION),
    ):
        validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", [a_job(), a_set()], ids=["job", "ranks"])
def test_pods_are_restricted_and_have_no_token(manifest: dict[str, Any]) -> None:
    pod = pod_spec(manifest)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize(
    "manifest",
    [a_job(), a_set(), services.endpoint_service(ModelBuilder().build(), REVISION)],
    ids=["job", "ranks", "service"],
)
def test_objects_go_with_their_model(manifest: dict[str, Any]) -> None:
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (
        "uid-tiny",
        True,
        False,
    )
    assert manifest["metadata"]["labels"][labels.MODEL] == "tiny"


def test_the_job_is_started_as_the_runtime_expects() -> None:
    rules = [{"match": "*.q", "strategy": "column"}]
    builder = ModelBuilder().with_spec(sharding={"rules": rules})
    builder.body["spec"]["source"] |= {"revision": "v2", "region": "eu-1"}
    job = container(a_job(builder))
    assert job["command"] == ["shardedmodel"]
    arguments = job["args"]
    assert arguments[:3] == ["shard", "s3://models/tiny", "s3://shards"]
    flags = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert json.loads(flags.pop("--rules")) == rules
    assert flags == {
        "--tensor": "2",
        "--pipeline": "1",
        "--expert": "1",
        "--dtype": "keep",
        "--revision": "v2",
        "--source-endpoint-url": "http://s3.storage:8333",
        "--storage-endpoint-url": "http://s3.storage:8333",
        "--source-region": "eu-1",
        "--port": "8080",
        "--termination-log": "/dev/termination-log",
    }


def test_the_job_is_told_of_all_that_shapes_the_shards() -> None:
    rule = {"match": "*.qkv", "strategy": "packed", "parts": ["query", 2], "transposed": True}
    sharding = {"rules": [rule], "dtype": "bfloat16", "allowUnmatched": True, "workers": 4}
    builder = ModelBuilder().with_spec(sharding=sharding).with_parallelism(pipeline=2, expert=3)
    arguments = container(a_job(builder))["args"]
    assert arguments[-1] == "--allow-unmatched"
    flags = dict(zip(arguments[3:-1:2], arguments[4:-1:2], strict=True))
    assert json.loads(flags["--rules"]) == [rule]
    assert (flags["--pipeline"], flags["--expert"]) == ("2", "3")
    assert (flags["--dtype"], flags["--workers"]) == ("bfloat16", "4")


def test_workers_are_the_pods_of_an_indexed_job() -> None:
    spec = a_job(ModelBuilder().with_spec(sharding={"workers": 4}))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    validate(a_job(ModelBuilder().with_spec(sharding={"workers": 4})), "1.25", strict=True)


def test_one_worker_is_a_job_that_every_server_knows() -> None:
    assert set(a_job()["spec"]) == {"backoffLimit", "template"}


@pytest.mark.parametrize("sharding", [{"workers": 4}, {"allowUnmatched": True}])
def test_how_the_shards_are_made_does_not_name_the_request(sharding: dict[str, Any]) -> None:
    assert ModelBuilder().with_spec(sharding=sharding).request == ModelBuilder().request


@pytest.mark.parametrize(
    "rule",
    [{"strategy": "row"}, {"transposed": True}, {"uneven": "chunk"}],
)
def test_every_field_of_a_rule_names_the_request(rule: dict[str, Any]) -> None:
    plain = {"match": "*", "strategy": "column"}
    named = ModelBuilder().with_spec(sharding={"rules": [plain | rule]}).request
    assert named != ModelBuilder().with_spec(sharding={"rules": [plain]}).request


def test_a_rule_with_its_defaults_written_out_names_the_same_request() -> None:
    plain = {"match": "*", "strategy": "column"}
    full = plain | {"transposed": False, "parts": [], "inner": "", "uneven": "refuse"}
    named = ModelBuilder().with_spec(sharding={"rules": [full]}).request
    assert named == ModelBuilder().with_spec(sharding={"rules": [plain]}).request


def test_the_job_never_retries_by_itself() -> None:
    job = a_job()
    assert job["spec"]["backoffLimit"] == 0
    assert pod_spec(job)["restartPolicy"] == "Never"


def test_the_job_gets_both_sets_of_credentials_apart() -> None:
    found = env(a_job())
    source = found["SOURCE_AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]
    storage = found["STORAGE_AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert source == {"name": "models-s3", "key": "AWS_ACCESS_KEY_ID"}
    assert storage == {"name": "shards-s3", "key": "AWS_SESSION_TOKEN", "optional": True}


def test_without_a_secret_no_credentials_are_mounted() -> None:
    builder = ModelBuilder()
    del builder.body["spec"]["storage"]["credentialsSecretRef"]
    assert not any(name.startswith("AWS_") for name in env(a_set(builder)))


def test_the_job_stays_within_its_memory() -> None:
    assert container(a_job())["resources"]["limits"] == {"memory": "1Gi"}


def test_ranks_are_started_as_the_runtime_expects() -> None:
    builder = ModelBuilder().with_workers(entrypoint="my.module:serve", gpusPerPod=2)
    builder.body["spec"]["storage"]["region"] = "eu-1"
    arguments = container(a_set(builder))["args"]
    assert arguments[:2] == ["rank", f"s3://shards/{LAYOUT_HASH}"]
    assert dict(zip(arguments[2::2], arguments[3::2], strict=True)) == {
        "--endpoint-url": "http://s3.storage:8333",
        "--region": "eu-1",
        "--world-size": "2",
        "--local-ranks": "2",
        "--backend": "gloo",
        "--entrypoint": "my.module:serve",
        "--port": "8080",
        "--termination-log": "/dev/termination-log",
    }


def test_ranks_know_themselves_and_rank_0() -> None:
    found = env(a_set())
    name = f"tiny-{REVISION[:8]}-0"
    assert found["MASTER_ADDR"]["value"] == f"{name}-0.{name}"
    assert found["MASTER_PORT"]["value"] == "29500"
    paths = {n: found[n]["valueFrom"]["fieldRef"]["fieldPath"] for n, _ in desired.FIELDS}
    assert paths == {
        "POD_NAME": "metadata.name",
        "POD_IP": "status.podIP",
        "NODE_NAME": "spec.nodeName",
    }
    assert found["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"] == "shards-s3"


def test_a_group_is_one_parallel_set_that_is_never_rolled() -> None:
    spec = a_set(ModelBuilder().with_parallelism(tensor=8).with_workers(gpusPerPod=4))["spec"]
    assert spec["replicas"] == 2
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["serviceName"] == f"tiny-{REVISION[:8]}-0"


def test_names_of_ranks_resolve_before_anybody_is_ready() -> None:
    service = services.headless_service(ModelBuilder().build(), REVISION, 0)
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"
    selected = service["spec"]["selector"].items()
    assert selected <= a_set()["spec"]["template"]["metadata"]["labels"].items()


def test_the_models_service_selects_one_revision() -> None:
    selector = services.endpoint_service(ModelBuilder().build(), REVISION)["spec"]["selector"]
    assert selector[labels.REVISION] == REVISION
    assert selector.items() <= a_set()["spec"]["template"]["metadata"]["labels"].items()


def test_slow_loads_get_the_time_that_their_bytes_need() -> None:
    probe = container(a_set())["startupProbe"]
    # 100 GB at 50 MB/s, and 120 s.
    assert probe["failureThreshold"] * probe["periodSeconds"] == 2120


def test_liveness_does_not_ask_for_readiness() -> None:
    ranks = container(a_set())
    assert ranks["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert ranks["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert ranks["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize(
    ("workers", "limits"),
    [
        ({"backend": "auto"}, {"nvidia.com/gpu": "1"}),
        ({"backend": "nccl", "gpusPerPod": 2}, {"nvidia.com/gpu": "2"}),
        ({"backend": "gloo"}, None),
        ({"backend": "auto", "resources": {"limits": {"amd.com/gpu": 1}}}, {"amd.com/gpu": 1}),
        (
            {"backend": "auto", "resources": {"limits": {"nvidia.com/mig-1g.18gb": 1}}},
            {"nvidia.com/mig-1g.18gb": 1},
        ),
    ],
)
def test_gpus_are_asked_for_where_nobody_did(
    workers: dict[str, Any], limits: dict[str, Any] | None
) -> None:
    resources = container(a_set(ModelBuilder().with_workers(**workers)))["resources"]
    assert resources.get("limits") == limits


def test_memory_is_reserved_for_the_shards_of_a_pod() -> None:
    builder = ModelBuilder().with_workers(gpusPerPod=2)
    requests = container(a_set(builder))["resources"]["requests"]
    assert requests["memory"] == str(2 * (100_000_000_000 + 512 * 1024**2))


@pytest.mark.parametrize("section", ["requests", "limits"])
def test_resources_that_the_user_gives_are_left_alone(section: str) -> None:
    given = {section: {"memory": "7Gi", "cpu": 2}}
    resources = container(a_set(ModelBuilder().with_workers(resources=given)))["resources"]
    assert resources[section] == given[section]
    assert not set(resources["requests"]) & {"memory", "cpu"} or section == "requests"


def test_shared_memory_is_a_bounded_memory_volume() -> None:
    volumes = {v["name"]: v for v in pod_spec(a_set())["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(1024**3)}


def test_the_size_of_shared_memory_can_be_overridden() -> None:
    template = {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}]}}
    manifest = a_set(ModelBuilder().with_workers(template=template))
    volumes = {v["name"]: v for v in pod_spec(manifest)["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


RACK = "topology.kubernetes.io/rack"


def rack_of(name: str, revision: str, group: int) -> dict[str, str]:
    return labels.common(name, labels.ROLE_RANK) | labels.group_selector(name, revision, group)


def selects(selector: dict[str, Any], found: dict[str, str]) -> bool:
    """Whether a label selector matches, as the scheduler decides it."""
    same = all(found.get(key) == value for key, value in selector["matchLabels"].items())
    differs = (found.get(e["key"]) not in e["values"] for e in selector.get("matchExpressions", []))
    return same and all(differs)


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (rack_of("tiny", REVISION, 0), True),
        (rack_of("tiny", REVISION, 1), False),
        (rack_of("tiny", "another", 0), False),
        (rack_of("large", REVISION, 0), False),
    ],
    ids=["own group", "other group", "other revision", "other model"],
)
def test_an_exclusive_topology_holds_one_group_and_no_other(
    other: dict[str, str], together: bool
) -> None:
    manifest = a_set(ModelBuilder().with_workers(exclusiveTopology=RACK))
    validate(manifest, "1.25", strict=True)
    affinity = pod_spec(manifest)["affinity"]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    (near,), far = (affinity[kind][required] for kind in ("podAffinity", "podAntiAffinity"))
    assert {term["topologyKey"] for term in (near, *far)} == {RACK}
    assert selects(near["labelSelector"], other) == together
    assert any(selects(term["labelSelector"], other) for term in far) != together


def test_pods_that_are_no_ranks_share_an_exclusive_topology() -> None:
    affinity = pod_spec(a_set(ModelBuilder().with_workers(exclusiveTopology=RACK)))["affinity"]
    terms = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert not any(selects(term["labelSelector"], {"app": "web"}) for term in terms)


def test_a_users_node_affinity_stays_beside_an_exclusive_topology() -> None:
    template: dict[str, Any] = {"spec": {"affinity": {"nodeAffinity": {}}}}
    builder = ModelBuilder().with_workers(exclusiveTopology=RACK, template=template)
    assert set(pod_spec(a_set(builder))["affinity"]) == {
        "nodeAffinity",
        "podAffinity",
        "podAntiAffinity",
    }


def test_overrides_are_merged_by_name() -> None:
    manifest = a_set(ModelBuilder().with_workers(template=RICH))
    assert pod_spec(manifest)["runtimeClassName"] == "nvidia"
    assert [c["name"] for c in pod_spec(manifest)["containers"]] == ["rank", "sidecar"]
    assert env(manifest)["NCCL_DEBUG"]["value"] == "INFO"
    assert "MASTER_ADDR" in env(manifest)
    mounts = [m["mountPath"] for m in container(manifest)["volumeMounts"]]
    assert mounts == ["/tmp", "/dev/shm", "/data"]
    assert manifest["spec"]["template"]["metadata"]["labels"]["team"] == "a"


def test_a_null_override_removes_a_default() -> None:
    template = {"spec": {"containers": [{"name": "rank", "livenessProbe": None}]}}
    assert "livenessProbe" not in container(a_set(ModelBuilder().with_workers(template=template)))


def test_the_job_takes_volumes_environment_and_placement_of_the_overrides() -> None:
    manifest = a_job(ModelBuilder().with_workers(template=RICH))
    pod = pod_spec(manifest)
    assert [c["name"] for c in pod["containers"]] == ["shard"]
    assert [m["mountPath"] for m in container(manifest)["volumeMounts"]] == ["/tmp", "/data"]
    assert env(manifest)["NCCL_DEBUG"]["value"] == "INFO"
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert "runtimeClassName" not in pod
    assert "lifecycle" not in container(manifest)


@pytest.mark.parametrize("manifest_of", [a_job, a_set])
def test_an_image_of_the_users_takes_the_place_of_the_default(manifest_of: Any) -> None:
    assert container(manifest_of())["image"] == SETTINGS.runtime_image
    builder = ModelBuilder().with_workers(image="mine:2")
    assert container(manifest_of(builder))["image"] == "mine:2"


@pytest.mark.parametrize(
    "changed",
    [
        ModelBuilder().with_workers(image="other:1"),
        ModelBuilder().with_workers(gpusPerPod=2),
        ModelBuilder().with_workers(backend="nccl"),
        ModelBuilder().with_workers(entrypoint="a:b"),
        ModelBuilder().with_workers(template={"spec": {"hostPID": True}}),
        ModelBuilder().with_workers(resources={"limits": {"memory": "1Gi"}}),
        ModelBuilder().with_spec(storage={"uri": "s3://elsewhere"}),
    ],
)
def test_what_shapes_the_pods_makes_a_new_revision(changed: ModelBuilder) -> None:
    assert revision(changed) != revision(ModelBuilder())


@pytest.mark.parametrize(
    "changed",
    [
        ModelBuilder().with_spec(replicas=3),
        ModelBuilder().with_spec(suspend=True),
        ModelBuilder().with_spec(rollout={"strategy": "Recreate"}),
        ModelBuilder().with_workers(gpusPerPod=1, image=""),
    ],
)
def test_what_does_not_shape_the_pods_keeps_the_revision(changed: ModelBuilder) -> None:
    assert revision(changed) == revision(ModelBuilder())


def test_another_layout_is_another_revision() -> None:
    other = Layout("f" * 20, "s3://shards/f", 1)
    assert revision(ModelBuilder(), other) != revision(ModelBuilder())


@pytest.mark.parametrize("length", [1, 30, 40, 63])
def test_names_fit_whatever_the_models_name(length: int) -> None:
    model = "m" * length
    assert len(group_name(model, REVISION, 1023)) <= 52
    assert len(job_name(model, REVISION, 1000)) <= 63


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    assert group_name("m" * 60 + "a", REVISION, 0) != group_name("m" * 60 + "b", REVISION, 0)
