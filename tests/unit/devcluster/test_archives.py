from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.devcluster.archives import Content, contents
from tests.devcluster.errors import DevClusterError
from tests.devcluster.runtime import is_present


def archive(path: Path, name: str, document: Any) -> Path:
    data = json.dumps(document).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return path


def test_a_docker_archive_tells_names_and_configuration(tmp_path: Path) -> None:
    document = [{"Config": "abc.json", "RepoTags": ["localhost/a:1"], "Layers": []}]
    found = contents(archive(tmp_path / "a.tar", "manifest.json", document))
    assert found == [Content(("localhost/a:1",), "sha256:abc", False)]


def test_an_oci_archive_tells_its_manifest(tmp_path: Path) -> None:
    entry = {
        "digest": "sha256:def",
        "annotations": {"org.opencontainers.image.ref.name": "localhost/a:1"},
    }
    found = contents(archive(tmp_path / "a.tar", "index.json", {"manifests": [entry]}))
    assert found == [Content(("localhost/a:1",), "sha256:def", True)]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(DevClusterError, match="text is not an image archive"):
        contents(tmp_path / "text")
    with pytest.raises(DevClusterError, match="neither a docker nor an OCI archive"):
        contents(archive(tmp_path / "a.tar", "other.json", {}))


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, False),
        ({"sha256:abc": "sha256:m1"}, False),
        ({"localhost/a:1": "sha256:m0", "sha256:abc": "sha256:m1"}, False),
        ({"localhost/a:1": "sha256:m1", "sha256:abc": "sha256:m1"}, True),
    ],
)
def test_an_image_is_present_if_its_name_means_the_same(
    present: dict[str, str], expected: bool
) -> None:
    assert is_present(Content(("localhost/a:1",), "sha256:abc", False), present) is expected


def test_an_image_without_a_name_is_never_present() -> None:
    assert not is_present(Content((), "sha256:m1", True), {"x": "sha256:m1"})
