from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch, ConfigurationError
from shardedmodel_runtime.rank import distributor, entrypoint, worker
from shardedmodel_runtime.rank.distributor import ModelDistributor
from shardedmodel_runtime.rank.options import RankOptions
from shardedmodel_runtime.rank.pipe import RankMessage, Reporter
from shardedmodel_runtime.rank.status import RankStatus


def run(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, list[RankMessage]]:
    """Run a rank in this process until it fails."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    reading, writing = os.pipe()
    code = worker.main(RankOptions(layout="file:///nowhere/0123abcd", **options), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        return code, [RankMessage.model_validate_json(line) for line in pipe]


def test_an_entrypoint_that_is_not_there_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, messages = run(monkeypatch, entrypoint="no_such_module:serve")
    failure = messages[-1].failure
    assert failure is not None
    assert (code, failure.reason, messages[-1].rank.state) == (2, "ConfigurationError", "failed")
    assert messages[-1].exit_code == code


def test_a_failure_is_told_before_cleaning_up_which_may_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    tell = worker.report_failure

    class Distributor(ModelDistributor):
        def __exit__(self, *_: object) -> None:
            order.append("cleaned up")

        def __enter__(self) -> Self:
            return self

        def run(self, *_: object) -> None:
            raise ChecksumMismatch("block 1")

    def told(*arguments: Any) -> None:
        tell(*arguments)
        order.append("told")

    monkeypatch.setattr(distributor, "ModelDistributor", Distributor)
    monkeypatch.setattr(worker, "report_failure", told)
    assert run(monkeypatch)[0] == ChecksumMismatch.exit_code
    assert order == ["told", "cleaned up"]


def test_a_bug_is_an_internal_error_that_points_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(entrypoint, "resolve", fail)
    code, messages = run(monkeypatch, entrypoint="a:b")
    failure = messages[-1].failure
    assert failure is not None
    assert (code, failure.reason) == (1, "InternalError")
    assert "KeyError" in failure.message


def test_a_group_that_changed_ends_a_process_with_an_entrypoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    reading, writing = os.pipe()
    status = RankStatus(0)
    reporter = Reporter(writing, lambda: RankMessage(rank=status.report()))
    with pytest.raises(Ended, match="7"):
        worker.end_for_change(reporter, status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        message = RankMessage.model_validate_json(pipe.readline())
    assert message.failure is not None
    assert (message.failure.reason, message.failure.retryable) == ("GroupError", True)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("serving")
    monkeypatch.setitem(sys.modules, "serving", made)
    return made


def test_an_entrypoint_is_found_by_its_name(module: ModuleType) -> None:
    module.__dict__["serve"] = print
    assert entrypoint.resolve("serving:serve") is print


@pytest.mark.parametrize(
    ("name", "message"),
    [("serving:absent", "has no 'absent'"), ("serving:number", "is not a function")],
)
def test_an_entrypoint_that_cannot_be_called_is_refused(
    module: ModuleType, name: str, message: str
) -> None:
    module.__dict__["number"] = 5
    with pytest.raises(ConfigurationError, match=message):
        entrypoint.resolve(name)


def test_a_worker_imports_no_torch_before_its_first_report() -> None:
    source = Path(worker.__file__).read_text().partition("def main")[0]
    assert "torch" not in source.partition('"""')[2].partition('"""')[2]
