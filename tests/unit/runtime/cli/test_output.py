"""What comes of a result that nobody reads, or that finds no room."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import StorageError
from tests.builders.layout import Checkpoint, make_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "bert")


def shell(command: str) -> tuple[int, str]:
    """Run the command's module in a shell; gives its exit code and what it said on stderr."""
    module = f"{sys.executable} -m shardedmodel_runtime"
    script = f"set -o pipefail; {module} {command}"
    done = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_who_has_read_enough_ends_a_command_quietly(checkpoint: Checkpoint) -> None:
    command = f"plan {checkpoint.uri} --tensor 2 --json | true"
    assert shell(command) == (128 + signal.SIGPIPE, "")


def test_a_result_that_finds_no_room_is_told(checkpoint: Checkpoint) -> None:
    code, said = shell(f"plan {checkpoint.uri} --tensor 2 > /dev/full")
    assert code == StorageError.exit_code
    assert said == (
        "error: StorageError: stdout: No space left on device; write the result elsewhere\n"
    )
