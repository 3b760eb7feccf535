"""The documents lead where they say, and their snippets mean something."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardedmodel_operator.api.validation import parse_spec, semantic_problems
from shardedmodel_runtime.cli.rules import parse_rules

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SMALLEST = {
    "source": {"uri": "s3://models/minilm"},
    "storage": {"uri": "s3://shards"},
    "parallelism": {"tensor": 2},
}


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


def anchors(document: Path) -> set[str]:
    """The names by which headings are linked: GitHub's own rule."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    lost = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.M)) <= targets


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "operating.md", "yaml"))
def test_every_part_of_a_spec_that_operating_shows_is_valid(text: str) -> None:
    shown: dict[str, Any] = yaml.safe_load(text)
    assert list(shown) == ["spec"]
    spec, problems = parse_spec(SMALLEST | shown["spec"])
    assert spec is not None
    assert problems + semantic_problems("minilm", spec) == []


def test_the_rules_that_the_commands_show_are_rules(tmp_path: Path) -> None:
    [text] = blocks(ROOT / "docs" / "commands.md", "yaml")
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    assert len(parse_rules(str(file))) == len(yaml.safe_load(text))


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "runtime.md", "python"))
def test_the_entrypoint_that_the_runtime_shows_takes_what_it_is_given(text: str) -> None:
    from shardedmodel_runtime.rank.entrypoint import RankContext

    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "context"
    }
    assert used
    assert used <= set(RankContext.__dataclass_fields__)
