"""What people see of work that takes long, and of sizes."""

from __future__ import annotations

import io

import pytest

from shardedmodel_runtime.cli.progress import ProgressLine, binary_size, decimal_size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_is_rewritten() -> None:
    stream = Terminal()
    with ProgressLine(lambda: "half done", stream):
        pass
    assert stream.getvalue() == "\r\x1b[Khalf done\n"


def test_a_log_sees_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardedmodel_runtime.cli.progress.LOG_SECONDS", 0.01)
    told: list[None] = []
    stream = io.StringIO()

    def describe() -> str:
        told.append(None)
        return "half done"

    with ProgressLine(describe, stream):
        while not told:
            pass
    assert stream.getvalue().startswith("half done\n")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (91 * 10**6, "86.78 MiB")],
)
def test_a_size_of_memory_has_the_unit_that_it_fills(count: int, text: str) -> None:
    assert binary_size(count) == text


def test_a_large_size_of_memory_is_in_gib() -> None:
    assert binary_size(80 * 2**40) == "81,920.00 GiB"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1e6, "1.0 MB"), (1_234_567_890, "1,234.6 MB")],
)
def test_a_size_of_files_has_the_decimal_unit_that_it_fills(count: float, text: str) -> None:
    assert decimal_size(count) == text
