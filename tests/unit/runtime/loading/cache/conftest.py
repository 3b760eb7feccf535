"""A layout of two ranks, and the folder that is its ranks' cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.rank_layout import Layout, write_layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return write_layout(tmp_path / "layout", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"
