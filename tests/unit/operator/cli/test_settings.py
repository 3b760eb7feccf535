from __future__ import annotations

import pytest

from shardedmodel_operator.errors import SettingsError
from shardedmodel_operator.settings import Settings

IMAGE = {"SHARDEDMODEL_RUNTIME_IMAGE": "registry/runtime:1"}


def test_the_image_alone_is_enough() -> None:
    settings = Settings.read(IMAGE)
    assert (settings.runtime_image, settings.namespaces) == ("registry/runtime:1", ())


def test_foreign_variables_are_left_alone() -> None:
    assert Settings.read({**IMAGE, "PATH": "/bin"}).workers == 8


def test_namespaces_are_a_list_with_commas() -> None:
    settings = Settings.read({**IMAGE, "SHARDEDMODEL_NAMESPACES": "team-a, team-b,"})
    assert settings.namespaces == ("team-a", "team-b")


def test_a_flag_outranks_the_environment() -> None:
    settings = Settings.read({**IMAGE, "SHARDEDMODEL_NAMESPACES": "a"}, {"namespaces": ["b"]})
    assert settings.namespaces == ("b",)


def test_an_unknown_variable_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="SHARDEDMODEL_WORKER: is not a setting"):
        Settings.read({**IMAGE, "SHARDEDMODEL_WORKER": "2"})


def test_a_missing_image_is_named() -> None:
    with pytest.raises(SettingsError, match="SHARDEDMODEL_RUNTIME_IMAGE: is not set"):
        Settings.read({})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.read({"SHARDEDMODEL_WORKERS": "0", "SHARDEDMODEL_PORT": "x"})
    named = caught.value.message
    assert all(word in named for word in ("RUNTIME_IMAGE", "WORKERS: '0'", "PORT: 'x'"))


@pytest.mark.parametrize("namespace", ["Team", "a_b", "-a", "a" * 64])
def test_a_namespace_that_cannot_be_one_is_refused(namespace: str) -> None:
    with pytest.raises(SettingsError, match="SHARDEDMODEL_NAMESPACES"):
        Settings.read({**IMAGE, "SHARDEDMODEL_NAMESPACES": namespace})
