"""Dashboard, monitors and alerts speak of metrics that exist, in PromQL that parses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from shardedmodel_operator.planning import labels
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_runtime.cli import shard
from shardedmodel_runtime.rank.metrics import render
from shardedmodel_runtime.report import GroupReport
from tests.unit.charts.rendering import CHART, ROOT, Json, only, rendered
from tests.unit.operator.reconciling.builders import metrics

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
METRIC = re.compile(r"\bshardedmodel_\w+")
TYPE = re.compile(r"# TYPE (\w+) (\w+)")
ON = [f"metrics.{name}.enabled=true" for name in ("podMonitor", "prometheusRule", "dashboard")]


@pytest.fixture(scope="module")
def bodies() -> list[Json]:
    """Everything that watches the operator."""
    return rendered(*ON, "metrics.serviceMonitor.enabled=true")


@pytest.fixture(scope="module")
def existing() -> set[str]:
    """The series that operator, ranks and Jobs have."""
    text = metrics(WorkQueue(lambda: 0.0)).render() + Path(shard.__file__).read_text()
    text += render(GroupReport(layout_hash="a", world_size=1), [])
    found = set()
    for name, kind in TYPE.findall(text):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for suffix in suffixes}
    return found


QUERIES = [
    # With Grafana's variables filled in.
    (panel["title"], re.sub(r"\$\w+", "x", target["expr"]))
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
"""Each query of the dashboard with its panel's title."""


def alerts(bodies: list[Json]) -> list[Any]:
    (group,) = only(bodies, "PrometheusRule")["spec"]["groups"]
    found: list[Any] = group["rules"]
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_parses_and_names_what_exists(
    title: str, query: str, existing: set[str]
) -> None:
    promql_parser.parse(query)
    named = set(METRIC.findall(query))
    assert named, title
    assert named <= existing


def test_every_metric_of_the_operator_is_on_the_dashboard() -> None:
    shown = {name for _, query in QUERIES for name in METRIC.findall(query)}
    told = {name for name, _ in TYPE.findall(metrics(WorkQueue(lambda: 0.0)).render())}
    assert told == {
        re.sub("_bucket$", "", n) for n in shown if n.startswith("shardedmodel_operator_")
    }


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_each_panel_says_what_it_shows() -> None:
    assert all(p["description"] for p in DASHBOARD["panels"] if p["type"] != "row")


def test_grafana_gets_the_dashboard_as_it_is(bodies: list[Json]) -> None:
    config = only(bodies, "ConfigMap")
    assert json.loads(config["data"]["shardedmodel.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_every_alert_parses_and_names_what_exists(bodies: list[Json], existing: set[str]) -> None:
    for alert in alerts(bodies):
        promql_parser.parse(alert["expr"])
        named = set(METRIC.findall(alert["expr"]))
        assert named
        assert named <= existing


def test_every_alert_speaks_of_this_release_alone(bodies: list[Json]) -> None:
    mine = 'namespace="system", pod=~"release-.*"'
    for alert in alerts(bodies):
        assert alert["expr"].count(mine) == len(METRIC.findall(alert["expr"]))


def test_every_alert_has_its_lines_in_the_document(bodies: list[Json]) -> None:
    document = (ROOT / "docs" / "operating.md").read_text()
    for alert in alerts(bodies):
        assert f"### {alert['alert']}\n" in document
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("docs/operating.md", alert["alert"].lower())


def test_every_alert_can_be_sorted_and_waits_for_what_passes(bodies: list[Json]) -> None:
    for alert in alerts(bodies):
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+m", alert["for"])
        assert {"summary", "description"} <= set(alert["annotations"])


def test_the_service_monitor_finds_the_operators_service(bodies: list[Json]) -> None:
    monitor, service = only(bodies, "ServiceMonitor")["spec"], only(bodies, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["endpoints"], service["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")


def test_the_pod_monitor_finds_ranks_and_jobs(bodies: list[Json]) -> None:
    spec = only(bodies, "PodMonitor")["spec"]
    assert spec["selector"]["matchLabels"] == {labels.MANAGED_BY: labels.MANAGER}
    (expression,) = spec["selector"]["matchExpressions"]
    assert expression["key"] == labels.ROLE
    assert expression["values"] == [labels.ROLE_RANK, labels.ROLE_SHARD]
    assert spec["namespaceSelector"] == {"any": True}


def test_ranks_are_named_as_the_operator_names_models(bodies: list[Json]) -> None:
    (endpoint,) = only(bodies, "PodMonitor")["spec"]["podMetricsEndpoints"]
    sources = {r["targetLabel"]: r["sourceLabels"] for r in endpoint["relabelings"]}
    prefix = "__meta_kubernetes_pod_label_"
    assert sources["model"] == [prefix + re.sub(r"\W", "_", labels.MODEL)]
    assert sources["group"] == [prefix + re.sub(r"\W", "_", labels.GROUP)]
    assert set(sources) == {"model_namespace", "model", "group"}


def test_with_namespaces_only_their_ranks_are_scraped() -> None:
    spec = only(rendered(*ON, "namespaces={team-a}"), "PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["team-a"]}
