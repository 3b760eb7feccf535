"""The examples for Kustomize, Flux and Argo CD render, and name what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]

from shardedmodel_operator.api import crd
from shardedmodel_operator.api.resource import ShardedModel
from tests.devcluster.tools import helm, kubectl
from tests.unit.charts.rendering import CHART, ROOT

EXAMPLES = ROOT / "examples" / "gitops"
OVERLAY = EXAMPLES / "kustomize" / "overlays" / "production"
DOCUMENT = ROOT / "docs" / "gitops" / "README.md"
FOREIGN = ("fluxcd.io", "argoproj.io")


def run(*command: str) -> list[Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def kustomize(folder: Path) -> list[Any]:
    return run(str(kubectl()), "kustomize", str(folder))


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


@pytest.mark.parametrize(
    "folder", [OVERLAY, OVERLAY.parents[1] / "base", EXAMPLES / "flux"], ids=lambda f: f.name
)
def test_what_kustomize_renders_is_valid(folder: Path) -> None:
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    bodies = kustomize(folder)
    assert bodies
    for body in bodies:
        if body["kind"] == "ShardedModel":
            jsonschema.validate(body, schema)
            found = {**body, "metadata": {**body["metadata"], "uid": "u", "generation": 1}}
            found["metadata"].setdefault("namespace", "default")
            assert ShardedModel.from_object(found).problems == ()
        elif not body["apiVersion"].split("/")[0].endswith(FOREIGN):
            validate(body, "1.37", strict=True)


def test_generated_secrets_keep_their_references() -> None:
    bodies = kustomize(OVERLAY)
    (model,) = (body for body in bodies if body["kind"] == "ShardedModel")
    secrets = {body["metadata"]["name"] for body in bodies if body["kind"] == "Secret"}
    named = {model["spec"][side]["credentialsSecretRef"]["name"] for side in ("source", "storage")}
    assert named == secrets
    assert all(re.fullmatch(r"production-\w+-s3-\w{10}", name) for name in secrets)


def test_the_overlay_changes_what_it_says() -> None:
    (model,) = (body for body in kustomize(OVERLAY) if body["kind"] == "ShardedModel")
    assert (model["spec"]["parallelism"]["tensor"], model["spec"]["replicas"]) == (4, 2)


def test_flux_waits_for_what_is_rendered() -> None:
    models = load("flux/models.yaml")["spec"]
    rendered = {
        (body["kind"], body["metadata"]["namespace"], body["metadata"]["name"])
        for body in kustomize(ROOT / models["path"])
    }
    release = load("flux/operator.yaml")["spec"]
    rendered.add(("Deployment", release["targetNamespace"], release["releaseName"]))
    for check in models["healthChecks"]:
        assert (check["kind"], check["namespace"], check["name"]) in rendered


def test_flux_takes_all_from_the_one_source() -> None:
    source = load("flux/source.yaml")
    named = {"kind": "GitRepository", "name": source["metadata"]["name"]}
    assert load("flux/models.yaml")["spec"]["sourceRef"] == named
    release = load("flux/operator.yaml")["spec"]["chart"]["spec"]
    assert release["sourceRef"] == named
    assert ROOT / release["chart"] == CHART


def test_argo_takes_what_is_there() -> None:
    operator, models = (load(f"argocd/{name}.yaml") for name in ("operator", "models"))
    assert ROOT / operator["spec"]["source"]["path"] == CHART
    assert ROOT / models["spec"]["source"]["path"] == OVERLAY
    waves = [
        int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for app in (operator, models)
    ]
    assert waves == [0, 1]


@pytest.mark.parametrize("name", ["flux", "argocd"])
def test_the_chart_takes_the_values_of_the_examples(name: str, tmp_path: Path) -> None:
    spec = load(f"{name}/operator.yaml")["spec"]
    values = spec["values"] if name == "flux" else spec["source"]["helm"]["valuesObject"]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    bodies = run(str(helm()), "template", "x", str(CHART), "--values", str(file))
    (deployment,) = (body for body in bodies if body["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 2


def test_every_link_of_the_document_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", DOCUMENT.read_text())
    assert links
    assert [link for link in links if not (DOCUMENT.parent / link).exists()] == []
