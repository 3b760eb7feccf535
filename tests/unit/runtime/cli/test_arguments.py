"""What is told of arguments that cannot be meant."""

from __future__ import annotations

import pytest

from shardedmodel_runtime.cli import main


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
