from __future__ import annotations

from pathlib import Path

import pytest

from tests.devcluster import shell
from tests.devcluster.errors import CommandError, ComponentError, MissingError, tail


def test_output_is_returned() -> None:
    assert shell.run(["/bin/sh", "-c", "cat; echo $X"], env={"X": "x"}, stdin="in ") == "in x\n"


def test_a_failure_tells_command_status_and_output() -> None:
    with pytest.raises(CommandError, match=r"/bin/sh -c .* ended with 3:\nout\nerr$"):
        shell.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(MissingError, match="no-such-program is not installed"):
        shell.run(["no-such-program"])


def test_a_long_run_shows_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shell, "TICK_SECONDS", 0.05)
    said: list[str] = []
    shell.run_long("sleeping", ["/bin/sleep", "0.2"], tmp_path / "logs" / "x.log", said.append)
    assert said[0] == f"sleeping (log: {tmp_path}/logs/x.log)"
    assert said[1].startswith("sleeping: 0 s so far")
    assert said[-1].startswith("sleeping: done in")


def test_a_long_run_that_fails_tells_the_log_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with pytest.raises(CommandError, match=r"line 40$") as caught:
        shell.run_long("x", ["/bin/sh", "-c", "seq -f 'line %g' 40; exit 1"], log, shell.silent)
    assert "line 2\n" not in str(caught.value)
    assert str(log) in str(caught.value)


def test_a_component_error_names_component_log_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("\n".join(map(str, range(100))))
    error = ComponentError("etcd", "ended", log)
    assert str(error).startswith(f"etcd ended; its log {log} ends:\n")
    assert str(error).endswith("\n98\n99")
    assert tail(tmp_path / "absent") == "(no log)"
