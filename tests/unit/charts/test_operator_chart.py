"""The chart as the real Helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from shardedmodel_operator import chart
from shardedmodel_operator.api.crd import definition
from shardedmodel_operator.settings import PREFIX, Settings
from tests.devcluster.tools import helm
from tests.unit.charts.rendering import (
    CHART,
    CRD_KIND,
    ROOT,
    Json,
    environment,
    only,
    rendered,
    run_helm,
)


@pytest.fixture(scope="module")
def default() -> list[Json]:
    """All objects with the default values."""
    return rendered()


@pytest.fixture(scope="module")
def pod(default: list[Json]) -> Json:
    """The operator's pod."""
    spec: Json = only(default, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Json) -> Json:
    """The operator's container."""
    found: Json = pod["containers"][0]
    return found


def rules(role: Json) -> Iterator[tuple[str, str]]:
    """Each resource with each of its verbs."""
    for rule in role["rules"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield resource, verb


def test_the_pod_is_restricted(pod: Json, container: Json) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_services_of_the_namespace_do_not_look_like_settings(pod: Json) -> None:
    assert pod["enableServiceLinks"] is False


def test_the_operator_understands_its_settings(container: Json) -> None:
    settings = Settings.read(environment(container))
    assert settings.runtime_image == "shardedmodel-runtime:0.1.0"


def test_every_setting_can_be_set_by_a_value(container: Json) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(environment(container)) == known


def test_the_operator_has_no_right_that_it_does_not_use(default: list[Json]) -> None:
    granted = set(rules(only(default, "ClusterRole")))
    watch = {"list", "watch"}
    make = {*watch, "get", "create", "patch", "delete"}
    assert granted == {
        *(("shardedmodels", verb) for verb in (*watch, "patch")),
        ("shardedmodels/status", "patch"),
        *((kind, verb) for kind in ("jobs", "statefulsets", "services") for verb in make),
        *((kind, verb) for kind in ("networkpolicies", "poddisruptionbudgets") for verb in make),
        *(("pods", verb) for verb in watch),
        ("endpoints", "get"),
        *(("events", verb) for verb in ("list", "create", "patch")),
    }


def test_beside_its_work_the_operator_has_its_lease_and_no_other(default: list[Json]) -> None:
    make, keep = only(default, "Role")["rules"]
    assert (make["resources"], make["verbs"]) == (["leases"], ["create"])
    assert (keep["resourceNames"], keep["verbs"]) == (["release"], ["get", "update"])


def test_the_lease_is_in_the_releases_namespace(default: list[Json], container: Json) -> None:
    assert only(default, "Role")["metadata"]["namespace"] == "system"
    assert environment(container)["SHARDEDMODEL_LEASE"] == "system/release"


def test_with_namespaces_no_right_is_cluster_wide() -> None:
    bodies = rendered("namespaces={team-a,team-b}")
    kinds = [body["kind"] for body in bodies]
    assert "ClusterRole" not in kinds
    assert "ClusterRoleBinding" not in kinds
    roles = [body["metadata"]["namespace"] for body in bodies if body["kind"] == "Role"]
    assert roles == ["team-a", "team-b", "system"]
    pod = only(bodies, "Deployment")["spec"]["template"]["spec"]
    served = environment(pod["containers"][0])["SHARDEDMODEL_NAMESPACES"]
    assert served == "team-a,team-b"


def test_each_role_is_bound_to_the_service_account() -> None:
    bodies = rendered("namespaces={team-a}", "serviceAccount.name=special")
    subject = {"kind": "ServiceAccount", "name": "special", "namespace": "system"}
    bindings = [body for body in bodies if body["kind"] == "RoleBinding"]
    assert [binding["subjects"] for binding in bindings] == [[subject], [subject]]
    assert only(bodies, "ServiceAccount")["metadata"]["name"] == "special"


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ((), "shardedmodel-operator:0.1.0"),
        (("image.tag=v2",), "shardedmodel-operator:v2"),
        (
            ("image.tag=v2", f"image.digest=sha256:{'0' * 64}"),
            f"shardedmodel-operator@sha256:{'0' * 64}",
        ),
        (("image.reference=localhost/operator:demo",), "localhost/operator:demo"),
    ],
)
def test_an_image_is_named_in_three_ways(values: tuple[str, ...], image: str) -> None:
    pod = only(rendered(*values), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == image


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("imag.tag=2", "imag"),
        ("image.digest=abc", "digest"),
        ("namespaces={Team}", "namespaces"),
        ("logLevel=LOUD", "logLevel"),
        ("workers=0", "workers"),
        ("replicas=0", "replicas"),
        ("metrics.serviceMonitor.enabled=yes", "enabled"),
        ("metrics.podMonitor.interval=soon", "interval"),
        ("networkPolicy.apiServerPorts={https}", "apiServerPorts"),
        ("extraEnv[0].name=SHARDEDMODEL_PORT", "extraEnv"),
        ("podLabels.a.b=c", "podLabels"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(value: str, named: str) -> None:
    done = run_helm(value)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_crd_is_kept_on_uninstall(default: list[Json]) -> None:
    annotations = only(default, CRD_KIND)["metadata"].pop("annotations")
    assert annotations == {"helm.sh/resource-policy": "keep"}


def test_the_crd_is_the_generated_one() -> None:
    crd = only(rendered(), CRD_KIND)
    del crd["metadata"]["annotations"]
    assert crd == definition()


def test_the_crd_can_be_left_to_others() -> None:
    assert CRD_KIND not in [body["kind"] for body in rendered("crds.install=false")]


def test_a_server_that_knows_no_cel_gets_the_same_crd_without() -> None:
    old = only(rendered(version="1.20.2"), CRD_KIND)
    new = only(rendered(version="1.25.0"), CRD_KIND)
    assert "x-kubernetes-validations" not in yaml.dump(old)
    assert old == without_rules(new)


def without_rules(value: Any) -> Any:
    if isinstance(value, dict):
        rest = value.items()
        return {k: without_rules(v) for k, v in rest if k != "x-kubernetes-validations"}
    return [without_rules(item) for item in value] if isinstance(value, list) else value


def test_the_charts_copy_is_fresh() -> None:
    assert chart.CHART_FILE.read_text() == chart.template()


def test_the_chart_is_of_the_packages_release() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{about["appVersion"]}"' in project


def test_the_chart_lints() -> None:
    done = subprocess.run(
        [str(helm()), "lint", "--strict", str(CHART)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_rules_at_the_end_of_the_crd_are_under_a_condition_too() -> None:
    lines = ["a:", "  x-kubernetes-validations:", "  - rule: b", "    message: c"]
    assert list(chart._with_conditional_rules(lines)) == [
        "a:",
        "{{- if $cel }}",
        *lines[1:],
        "{{- end }}",
    ]
