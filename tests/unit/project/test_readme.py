"""The README says only what is so: its snippets are run. Its links: test_documents.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from shardedmodel_operator.api.validation import parse_spec, semantic_problems
from shardedmodel_runtime.cli import main
from tests.builders.checkpoint import bert_config, bert_shapes, write_checkpoint

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(program: str) -> list[list[str]]:
    joined = "\n".join(blocks("console")).replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)
        for line in joined.splitlines()
        if line.startswith(f"{program} ")
    ]


def test_the_first_screen_has_the_two_commands() -> None:
    assert [words[1] for words in commands("make")] == ["demo", "test"]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_manifest_is_a_valid_resource(text: str) -> None:
    resource: dict[str, Any] = yaml.safe_load(text)
    spec, problems = parse_spec(resource["spec"])
    assert spec is not None
    assert problems + semantic_problems(resource["metadata"]["name"], spec) == []


def test_the_commands_by_hand_do_what_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = bert_config()
    write_checkpoint(tmp_path / "minilm", config, bert_shapes(config))
    places = {
        "s3://models/minilm": (tmp_path / "minilm").as_uri(),
        "s3://shards": (tmp_path / "shards").as_uri(),
        "FOLDER": str(tmp_path / "restored"),
    }
    verbs = []
    for words in commands("shardedmodel"):
        words = [places.get(word, word) for word in words]
        words = [word.replace("s3://shards/LAYOUT", places.get("layout", "")) for word in words]
        assert main(words[1:]) == 0
        printed = capsys.readouterr().out
        verbs.append(words[1])
        if words[1] == "shard":
            places["layout"] = printed.split()[0]
    assert verbs == ["plan", "shard", "verify", "unshard"]
    assert bits(tmp_path / "restored") == bits(tmp_path / "minilm")


def bits(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", framework="np") as opened:
        return {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
