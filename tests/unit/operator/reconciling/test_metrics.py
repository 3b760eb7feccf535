from __future__ import annotations

import asyncio
import re
from pathlib import Path

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.cluster.calls import ApiCall
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.queue import WorkQueue
from tests.unit.operator.cluster.builders import model_body
from tests.unit.operator.reconciling.builders import metrics, phases

OPERATING = Path(__file__).parents[4] / "docs" / "operating.md"


def rendered() -> str:
    queue = WorkQueue(lambda: 0.0)
    asyncio.run(queue.add(Key("n", "a")))
    cluster = Cluster(None)
    cluster.calls[ApiCall("patch", "jobs", "200")] += 3
    seen = phases()
    body = model_body("a")
    seen.see(body)
    body["status"] = {
        "phase": "Failed",
        "groups": [{"ranks": 2, "readyRanks": 1}],
        "conditions": [{"type": "Stalled", "status": "True", "reason": "NotFound"}],
    }
    seen.see(body)
    found = metrics(queue, cluster, seen)
    found.reconciled(0.02)
    found.reconciled(3.0, "ClusterUnavailable")
    return found.render()


def test_api_calls_are_told_by_verb_resource_and_code() -> None:
    labels = 'verb="patch",resource="jobs",code="200"'
    assert f"shardedmodel_operator_api_calls_total{{{labels}}} 3" in rendered()


def test_the_queue_is_told() -> None:
    assert "shardedmodel_operator_queue_depth 1" in rendered()
    assert "shardedmodel_operator_queue_age_seconds 0" in rendered()


def test_who_leads_is_told() -> None:
    assert "\nshardedmodel_operator_leader 1\n" in rendered()


def test_results_are_there_before_the_first_of_them() -> None:
    text = metrics(WorkQueue(lambda: 0.0)).render()
    assert 'reconciles_total{result="error"} 0' in text


def test_durations_are_counted_in_buckets_that_add_up() -> None:
    text = rendered()
    assert 'reconcile_seconds_bucket{result="success",le="0.01"} 0' in text
    assert 'reconcile_seconds_bucket{result="success",le="0.025"} 1' in text
    assert 'reconcile_seconds_bucket{result="success",le="+Inf"} 1' in text
    assert 'reconcile_seconds_sum{result="error"} 3' in text
    assert 'reconcile_seconds_count{result="error"} 1' in text
    assert 'phase_seconds_count{phase="Pending"} 1' in text


def test_models_are_told_by_namespace_and_name() -> None:
    labels = 'model_namespace="team-a",model="a"'
    text = rendered()
    assert f'model_phase{{{labels},phase="Failed"}} 1' in text
    assert f'model_stalled{{{labels},reason="NotFound"}} 1' in text
    assert f"model_ranks_missing{{{labels}}} 1" in text


def test_watches_are_told_before_their_first_sign() -> None:
    assert 'watch_age_seconds{resource="pods"} 0' in rendered()


def test_every_line_is_of_the_text_format() -> None:
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? -?[0-9.e+-]+')
    lines = [line for line in rendered().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not sample.fullmatch(line)] == []


def test_every_sample_has_help_and_type() -> None:
    lines = rendered().splitlines()
    names = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    for name in names:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert any(line.startswith(f"# HELP {family} ") for line in lines)
        assert any(line.startswith(f"# TYPE {family} ") for line in lines)


def test_the_documented_names_are_those_that_are_told() -> None:
    told = set(re.findall(r"# TYPE (\w+) ", rendered()))
    documented = set(re.findall(r"^\| `(shardedmodel_operator_\w+)", OPERATING.read_text(), re.M))
    assert documented == told


def test_the_documented_labels_are_those_that_are_told() -> None:
    text = rendered()
    for name, labels in re.findall(
        r"^\| `(shardedmodel_operator_\w+)\{([\w, ]+)\}`", OPERATING.read_text(), re.M
    ):
        (shown,) = {
            ",".join(key for key in re.findall(r'(\w+)="', line) if key != "le")
            for line in text.splitlines()
            if line.startswith((f"{name}{{", f"{name}_bucket{{"))
        } or {""}
        assert shown == labels.replace(" ", "")
