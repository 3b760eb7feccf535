from __future__ import annotations

from pathlib import Path

from tests.devcluster import pip_settings

LISTING = """\
:env:.find-links='/wheels/env'
:env:.disable-pip-version-check='1'
global.cert='/certs/ca.crt'
global.extra-index-url='file:///local/one/simple https://packages.example/simple'
global.find-links='/wheels/global'
global.user='true'
install.no-index='false'
freeze.timeout='10'
"""


def test_only_settings_for_fetching_count_and_the_environment_wins() -> None:
    assert pip_settings.parse(LISTING) == {
        "cert": "/certs/ca.crt",
        "extra-index-url": "file:///local/one/simple https://packages.example/simple",
        "find-links": "/wheels/env",
        "no-index": "false",
    }


def test_local_folders_are_found_and_an_index_with_what_is_around_it(tmp_path: Path) -> None:
    for name in ("links", "with blank", "index/simple"):
        (tmp_path / name).mkdir(parents=True)
    settings = {
        "find-links": f"{tmp_path}/links https://far.example/links {tmp_path}/absent",
        "index-url": f"file://{tmp_path}/index/simple",
        "extra-index-url": f"file://{tmp_path}/with%20blank/simple",
    }
    assert pip_settings.local_paths(settings) == [
        tmp_path / "links",
        tmp_path / "with blank",
        tmp_path / "index",
    ]


def test_volumes_show_settings_and_folders_read_only(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    config = tmp_path / "pip.conf"
    volumes = pip_settings.volumes({"find-links": f"{tmp_path}/links", "retries": "3"}, config)
    assert f"--volume={config}:/etc/pip.conf:ro" in volumes
    assert f"--volume={tmp_path}/links:{tmp_path}/links:ro" in volumes
    assert all(volume.endswith(":ro") for volume in volumes)
    assert config.read_text() == f"[global]\nfind-links = {tmp_path}/links\nretries = 3\n\n"
    # It may hold credentials.
    assert config.stat().st_mode & 0o077 == 0
