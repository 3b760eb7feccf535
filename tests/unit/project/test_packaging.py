"""The traps of this tree's shape: its source root ``operator`` shares a standard module's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shardedmodel_runtime

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("folder", ["operator", "loader_runtime"])
def test_a_source_root_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_importing_the_runtime_imports_no_torch() -> None:
    code = "import sys, shardedmodel_runtime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", shardedmodel_runtime.__all__)
def test_every_public_name_of_the_runtime_can_be_imported(name: str) -> None:
    assert getattr(shardedmodel_runtime, name) is not None


def test_public_names_are_listed_before_they_are_used() -> None:
    code = (
        "import shardedmodel_runtime as runtime; import sys; "
        "sys.exit(not set(runtime.__all__) <= set(dir(runtime)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        shardedmodel_runtime.Nonsense  # noqa: B018
