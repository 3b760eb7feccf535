from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.devcluster import build_context
from tests.devcluster.build_context import Ignore


@pytest.mark.parametrize(
    ("rules", "path", "excluded"),
    [
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "sub/a.pyc", False),
        ("**/*.pyc", "a.pyc", True),
        ("**/*.pyc", "sub/deep/a.pyc", True),
        ("build", "build/x/y", True),
        ("build", "builder", False),
        ("/build/", "build/x", True),
        ("*\n!keep", "keep/a", False),
        ("*\n!keep\nkeep/b", "keep/b", True),
        ("*\n!keep/deep", "keep/other", True),
        ("*\n!keep\n**/__pycache__", "keep/__pycache__/a.pyc", True),
        ("# a comment\n\na?.txt", "ab.txt", True),
        ("a[bc].txt", "ac.txt", True),
        ("a.txt", "aXtxt", False),
    ],
)
def test_the_last_rule_that_matches_decides(rules: str, path: str, excluded: bool) -> None:
    assert Ignore(rules).excludes(path) is excluded


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    for name in ("operator/pkg/a.py", "operator/pkg/__pycache__/a.pyc", "other/b.py", "c.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".dockerignore").write_text("*\n!c.txt\n!operator/pkg\n**/__pycache__\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return folder


def test_files_are_those_that_the_rules_leave(context: Path) -> None:
    assert list(build_context.files(context)) == ["c.txt", "operator/pkg/a.py"]


def test_without_rules_all_files_count(context: Path) -> None:
    (context / ".dockerignore").unlink()
    assert len(list(build_context.files(context))) == 4


def test_a_staged_context_depends_on_contents_alone(context: Path, tmp_path: Path) -> None:
    (context / "operator/pkg/link").symlink_to("a.py")
    build_context.stage(context, tmp_path / "staged")
    staged = tmp_path / "staged"
    assert (staged / "operator/pkg/a.py").read_text() == "operator/pkg/a.py"
    assert (staged / "operator/pkg/link").readlink() == Path("a.py")
    assert not (staged / "other").exists()
    assert {path.lstat().st_mtime for path in staged.rglob("*")} == {1_000_000_000}


def test_the_key_changes_with_what_is_built_and_with_nothing_else(
    context: Path, tmp_path: Path
) -> None:
    dockerfile = tmp_path / "Dockerfile"

    def key(**options: str) -> str:
        return build_context.key(dockerfile, context, options)

    first = key(tag="a")
    (context / "other/b.py").write_text("ignored")
    os.utime(context / "c.txt", (1, 1))
    assert key(tag="a") == first
    keys = {first, key(tag="b")}
    (context / "c.txt").write_text("changed")
    keys.add(key(tag="a"))
    (context / "c.txt").chmod(0o755)
    keys.add(key(tag="a"))
    (context / "operator/pkg/link").symlink_to("a.py")
    keys.add(key(tag="a"))
    dockerfile.write_text("FROM other\n")
    keys.add(key(tag="a"))
    assert len(keys) == 6
