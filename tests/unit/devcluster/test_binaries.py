from __future__ import annotations

from pathlib import Path

import pytest

from tests.devcluster import binaries, tools
from tests.devcluster.errors import BuildError, MissingError
from tests.devcluster.shell import lock


def program(folder: Path, name: str, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
    path.chmod(0o755)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    assets = tmp_path / "assets"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return assets, binaries.cache_folder()


def test_assets_come_before_the_cache(folders: tuple[Path, Path]) -> None:
    assets, cache = folders
    program(assets, "kube-apiserver", "v1.22.7")
    program(cache, "kube-apiserver", "v1.20.2")
    program(cache, "kubelet", "v1.20.2")
    found = binaries.locate(["kube-apiserver", "kubelet"])
    assert found["kube-apiserver"] == assets / "kube-apiserver"
    assert found["kubelet"] == cache / "kubelet"
    assert found.version("kube-apiserver") == (1, 22)


def test_what_is_nowhere_is_named(folders: tuple[Path, Path]) -> None:
    with pytest.raises(MissingError, match="not found: kube-apiserver, kubelet"):
        binaries.locate(["kubelet", "kube-apiserver"])
    assert binaries.to_build(["etcd", "kubelet"]) == ["kubelet"]


def test_a_kubelet_far_older_than_the_server_is_refused() -> None:
    binaries.check_skew({"kube-apiserver": (1, 23), "kubelet": (1, 20)})
    with pytest.raises(MissingError, match=r"kubelet is 1\.20, kube-apiserver is 1\.24.*put"):
        binaries.check_skew({"kube-apiserver": (1, 24), "kubelet": (1, 20)})


@pytest.mark.parametrize(
    ("text", "version"),
    [("Kubernetes v1.20.2\n", (1, 20)), ("Kubernetes v1.37.0-rc.1+abc\n", (1, 37))],
)
def test_a_version_is_read(text: str, version: tuple[int, int]) -> None:
    assert binaries.parse_version(text) == version


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(BuildError, match="'usage' holds no version"):
        binaries.parse_version("usage\n")


def test_a_lock_that_is_held_is_waited_for_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    with lock(tmp_path / "x" / ".lock", "another build", said.append):
        pass
    assert said == []


def test_kubectl_of_the_assets_comes_first(folders: tuple[Path, Path]) -> None:
    program(folders[0], "kubectl", "v1.22.7")
    assert tools.kubectl() == folders[0] / "kubectl"
