from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from shardedmodel_runtime.cli.rules import RULES_BYTES_LIMIT, parse_rules
from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.sharding.rules import Rule

RULES = (Rule("*.q_proj.weight", "column"), Rule("*.o_proj.*", "row"))


def test_rules_stand_on_the_command_line_as_json() -> None:
    text = (
        '[{"match": "*.q_proj.weight", "strategy": "column"},'
        ' {"match": "*.o_proj.*", "strategy": "row"}]'
    )
    assert parse_rules(text) == RULES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "rules.yaml",
            "- {match: '*.q_proj.weight', strategy: column}\n"
            "- match: '*.o_proj.*'\n  strategy: row\n",
        ),
        (
            "rules.json",
            '[{"match": "*.q_proj.weight", "strategy": "column"},'
            ' {"match": "*.o_proj.*", "strategy": "row"}]',
        ),
    ],
)
def test_rules_stand_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert parse_rules(str(tmp_path / name)) == RULES


def test_no_rules_are_none() -> None:
    assert parse_rules("[]") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "--rules: not JSON"),
        ("[" * 100_000, "--rules: not JSON"),
        ("[1]", r"--rules: \[0\]: 1: "),
        ('[{"match": "*"}]', r"\[0\]\.strategy: .*[Ff]ield required"),
        ('[{"match": "*", "strategy": 1}]', r"\[0\]\.strategy: 1: .*valid string"),
        (
            '[{"match": "*", "strategy": "row"}, {"match": "*", "strateggy": "row"}]',
            r"\[1\]\.str",
        ),
        (
            '[{"match": "*", "strategy": "row", "dim": 1}]',
            r"\[0\]\.dim: is not a field of a rule; there are match, strategy",
        ),
        (
            '[{"math": "x", "strategy": "row"}]',
            r"\[0\]\.math: is not a field of a rule; did you mean match\?$",
        ),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_its_field(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_rules(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- [", "not YAML"),
        (b"match: x", "give a list of rules"),
        (b"- {match: 2026-11-22, strategy: row}", "2026-11-22: is of type date in YAML; put it in"),
        (
            b"- {2026-11-22: x, match: x, strategy: row}",
            "2026-11-22: is of type date in YAML; put it in",
        ),
        (b"- {1: x, match: x, strategy: row}", "--rules: 1: is of type int in YAML; put it in"),
        (b"- &rule {match: x, strategy: row, ranges: *rule}", "an alias leads back"),
        (b"- {1: x, [2]: y}", "not YAML"),
        (b"- {match: !!python/object:os.system x, strategy: row}", "not YAML"),
        (b"\xff", "not UTF-8"),
        (b" " * (RULES_BYTES_LIMIT + 1), "has more than"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        parse_rules(str(path))


def test_rules_may_come_through_a_pipe(tmp_path: Path) -> None:
    """As from a shell's ``--rules <(generate)``."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('[{"match": "x", "strategy": "row"}]',))
    writer.start()
    assert parse_rules(str(pipe)) == (Rule("x", "row"),)
    writer.join()


def test_what_has_no_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has more than"):
        parse_rules("/dev/zero")
