"""What comes of results and remarks that nobody reads, or that find no room."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import NotFound, StorageError
from tests.builders.checkpoint import bert_config, bert_shapes, write_checkpoint
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


@pytest.mark.parametrize("lost", ["2> /dev/full", "2>&-"])
def test_errors_that_find_no_room_keep_nothing_from_its_work(
    tmp_path: Path, checkpoint: Checkpoint, lost: str
) -> None:
    storage = (tmp_path / "shards").as_uri()
    assert shell(f"shard {checkpoint.uri} {storage} --tensor 2 {lost}")[0] == 0
    assert shell(f"plan {storage} --tensor 2 {lost}")[0] == NotFound.exit_code


@pytest.mark.parametrize("command", ["load --help", "plan {uri} --tensor 2"])
def test_what_an_encoding_lacks_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    config = bert_config()
    shapes = {f"{name}.…": shape for name, shape in bert_shapes(config).items()}
    write_checkpoint(tmp_path, config, shapes)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert shell(command.format(uri=tmp_path.as_uri())) == (0, "")
