"""docs/operating.md names what a user can meet."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shardedmodel_operator.settings import PREFIX, Settings
from shardedmodel_runtime import errors as runtime_errors
from shardedmodel_runtime.errors import ShardedModelError

ROOT = Path(__file__).parents[4]
DOCUMENT = (ROOT / "docs" / "operating.md").read_text()


def leaves(kind: type[ShardedModelError]) -> list[type[ShardedModelError]]:
    """The runtime's errors that have no narrower one."""
    below = [k for k in kind.__subclasses__() if k.__module__ == runtime_errors.__name__]
    return [leaf for k in below for leaf in leaves(k)] or [kind]


@pytest.mark.parametrize("kind", leaves(ShardedModelError), ids=lambda kind: kind.__name__)
def test_each_reason_of_the_runtime_is_explained(kind: type[ShardedModelError]) -> None:
    assert f"`{kind.__name__}`" in DOCUMENT


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_listed(name: str) -> None:
    assert f"`{PREFIX}{name.upper()}`" in DOCUMENT


def test_each_value_of_the_chart_is_listed() -> None:
    values = yaml.safe_load((ROOT / "charts" / "shardedmodel-operator" / "values.yaml").read_text())
    assert [name for name in values if f"`{name}" not in DOCUMENT] == []
