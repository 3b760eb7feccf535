from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from shardedmodel_operator import cli, logs
from shardedmodel_operator.cluster.calls import ApiCall
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import WATCHED, Resource
from shardedmodel_operator.errors import ClusterUnavailable, ObjectNotFound
from shardedmodel_operator.reconciling.process import Operator
from shardedmodel_operator.settings import Settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without what the tests themselves are told, which is no setting of the operator's.
    for name in [name for name in os.environ if name.startswith("SHARDEDMODEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHARDEDMODEL_RUNTIME_IMAGE", "runtime:1")
    monkeypatch.setattr(logs, "configure", lambda *_: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of each operator that was started."""
    found: list[Settings] = []

    class Closed:
        def watched(self) -> tuple[Resource, ...]:
            return WATCHED

        def close(self) -> None:
            return

    class Started:
        def __init__(self, settings: Settings, cluster: Any, watched: Any) -> None:
            assert watched == WATCHED
            found.append(settings)

        async def run(self) -> None:
            return

    monkeypatch.setattr(Cluster, "connect", Closed)
    monkeypatch.setattr(cli, "Operator", Started)
    return found


def test_the_crd_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["crd"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "CustomResourceDefinition"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["check", "--help"], ["--version"]]
)
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out


def test_without_flags_the_environment_counts(started: list[Settings]) -> None:
    assert cli.main(["run"]) == 0
    assert started[0].runtime_image == "runtime:1"


def test_flags_outrank_the_environment(
    started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDEDMODEL_NAMESPACES", "other")
    cli.main(["run", "--namespace", "a", "--namespace", "b", "--port", "0", "--log-level", "debug"])
    assert (started[0].namespaces, started[0].port, started[0].log_level) == (
        ("a", "b"),
        0,
        "DEBUG",
    )


def test_a_bad_setting_ends_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARDEDMODEL_TYPO", "1")
    assert cli.main(["run"]) == 2
    assert "SHARDEDMODEL_TYPO" in capsys.readouterr().err


def test_without_a_cluster_the_exit_status_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing() -> Cluster:
        raise ClusterUnavailable("no cluster is configured")

    monkeypatch.setattr(Cluster, "connect", nothing)
    assert cli.main(["run"]) == 8
    assert "no cluster is configured" in capsys.readouterr().err


def test_without_the_crd_the_message_says_how_to_get_it() -> None:
    class Empty:
        calls: Counter[ApiCall] = Counter()

        def list_pages(self, *_: object) -> Iterator[list[Any]]:
            raise ObjectNotFound("404", 404)

    operator = Operator(Settings(runtime_image="runtime:1"), Empty())  # type: ignore[arg-type]
    with pytest.raises(ObjectNotFound, match="shardedmodel-operator crd"):
        operator._check_served()


def test_a_good_installation_is_told_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Empty:
        def watched(self) -> tuple[Resource, ...]:
            return WATCHED

        def list_pages(self, *_: object) -> Iterator[list[Any]]:
            yield []

        def close(self) -> None:
            return

    monkeypatch.setattr(Cluster, "connect", Empty)
    assert cli.main(["check"]) == 0
    assert "shardedmodels: may be listed in all namespaces" in capsys.readouterr().out
