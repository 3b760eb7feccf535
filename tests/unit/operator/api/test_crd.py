from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]

from shardedmodel_operator.api import crd, reference
from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.sharding import Strategy
from shardedmodel_runtime.sharding.cutter import STRATEGIES
from tests.builders.operator import ModelBuilder, failure, group_report, summary
from tests.simulated_cluster import SimulatedCluster

FOLDERS = (crd.ROOT / "examples", crd.ROOT / "examples" / "demo")
EXAMPLES = [
    file
    for folder in FOLDERS
    for file in sorted(folder.glob("*.yaml"))
    if "kind: ShardedModel" in file.read_text()
]


def schema() -> dict[str, Any]:
    found: dict[str, Any] = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[]")


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_the_definition_matches_kubernetes_schema(version: str) -> None:
    validate(crd.definition(), version, strict=True)


def test_the_schema_is_structural() -> None:
    for path, node in nodes(schema()):
        typed = "type" in node or node.get("x-kubernetes-int-or-string")
        assert typed, f"{path} has no type"
        assert not set(node) & {"$ref", "$defs", "nullable", "title", "const", "oneOf"}, path
        if "anyOf" in node:
            assert node["x-kubernetes-int-or-string"], path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_lists_maps_and_strings_are_bounded_so_that_cel_can_be_costed() -> None:
    free = {".kind", ".apiVersion"}
    for path, node in nodes(schema()):
        if path in free or node.get("format") == "date-time" or "enum" in node:
            continue
        match node.get("type"):
            case "array":
                assert "maxItems" in node, path
            case "string":
                assert "maxLength" in node, path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path


def test_numbers_carry_their_format() -> None:
    for path, node in nodes(schema()):
        if node.get("type") == "integer":
            assert node["format"] in ("int32", "int64"), path
        if node.get("type") == "number":
            assert node["format"] == "double", path


def test_every_field_is_described() -> None:
    undescribed = [
        path
        for path, node in nodes(schema())
        if path.startswith((".spec.", ".status.")) and not path.endswith("[]")
        if "description" not in node
    ]
    assert undescribed == []


def test_the_strategies_are_those_of_the_runtime() -> None:
    assert set(get_args(Strategy)) == set(STRATEGIES)


def test_status_begins_without_a_false_green() -> None:
    assert schema()["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_get_scale_always_finds_its_paths() -> None:
    version = crd.definition()["spec"]["versions"][0]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"
    assert schema()["properties"]["spec"]["properties"]["replicas"]["default"] == 1
    assert {"selector", "replicas"} <= set(schema()["properties"]["status"]["properties"])


def test_conditions_are_merged_by_type() -> None:
    conditions = schema()["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_columns_read_fields_that_exist() -> None:
    known = {path for path, _ in nodes(schema())}
    for column in crd.PRINTER_COLUMNS:
        path = column["jsonPath"].partition("[?")[0]
        assert path in known | {".metadata.creationTimestamp"}, column["name"]


def test_columns_come_in_the_order_that_people_read() -> None:
    assert [c["name"] for c in crd.PRINTER_COLUMNS if not c.get("priority")] == [
        "Ready",
        "Phase",
        "TP",
        "Ranks",
        "Load",
        "Age",
    ]
    assert [c["name"] for c in crd.PRINTER_COLUMNS if c.get("priority")] == [
        "GB/s",
        "Slowest",
        "Revision",
        "Reason",
    ]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_are_valid(file: Path) -> None:
    body = yaml.safe_load(file.read_text())
    jsonschema.validate(body, schema())
    body["metadata"] |= {"uid": "uid", "namespace": "models"}
    assert ShardedModel.from_object(body).problems == ()


def a_story() -> Iterator[SimulatedCluster]:
    cluster = SimulatedCluster(ModelBuilder())
    cluster.settle()
    yield cluster
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.settle()
    yield cluster
    cluster.pass_time(10)
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json(), attempt=2)
    cluster.settle()
    (name,) = cluster.names("StatefulSet")
    cluster.run_ranks(name)
    cluster.reports[name] = group_report(name)
    cluster.settle()
    yield cluster


def test_what_the_operator_writes_is_what_the_schema_allows() -> None:
    for cluster in a_story():
        jsonschema.validate(cluster.builder.body["status"], schema()["properties"]["status"])
        known = schema()["properties"]["status"]["properties"]
        assert set(cluster.builder.body["status"]) <= set(known)


@pytest.mark.parametrize(
    ("module", "file"), [(crd, crd.CRD_FILE), (reference, reference.REFERENCE_FILE)]
)
def test_generated_files_are_fresh(module: Any, file: Path) -> None:
    assert file.read_text() == module.render()


def test_a_stale_file_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crd, "ROOT", tmp_path)
    file = tmp_path / "made" / "file.md"
    assert crd.write_or_check(file, lambda: "new", ["--check"]) == 1
    assert crd.write_or_check(file, lambda: "new", []) == 0
    assert crd.write_or_check(file, lambda: "new", ["--check"]) == 0
    assert crd.write_or_check(file, lambda: "newer", ["--check"]) == 1


def test_an_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.write_or_check(crd.CRD_FILE, crd.render, ["--chek"]) == 2
    assert "--chek" in capsys.readouterr().err


def test_the_reference_tells_of_every_field_and_rule() -> None:
    text = reference.render()
    for path, _ in nodes(schema()):
        if path.startswith((".spec.", ".status.")) and not path.endswith("[]"):
            assert f"`{path[1:]}`" in text
    for _, node in nodes(schema()):
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"] in text
