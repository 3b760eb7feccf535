"""What is told of arguments that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.cli import main
from tests.builders.layout import make_checkpoint, shard


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("load file:///x --shard-common", "--shard-common; did you mean --share-common?"),
        ("verify file:///x --endpoint-url=http://y", "did you mean --storage-endpoint-url?"),
        ("verify file:///x file:///y", "unrecognized argument: file:///y\n"),
    ],
)
def test_an_unknown_argument_is_told_with_the_commands_own_usage(
    capsys: pytest.CaptureFixture[str], arguments: str, told: str
) -> None:
    command, *_ = words = arguments.split()
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: shardedmodel {command} ")
    assert told in said


def test_a_layout_in_place_of_a_checkpoint_is_told_with_what_cuts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "source", "bert")
    _, _, layout = shard(checkpoint.uri, (tmp_path / "shards").as_uri(), 2)
    assert main(["plan", layout, "--tensor", "1"]) == 4
    assert "a layout is no checkpoint, `shardedmodel reshard` cuts it" in capsys.readouterr().err
