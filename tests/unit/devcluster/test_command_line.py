from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.devcluster.__main__ import main
from tests.devcluster.credentials import USERS, create
from tests.devcluster.settings import Slot

COMMANDS = ("up", "down", "status", "kubeconfig", "load-image", "build-image")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"devcluster {command}" in capsys.readouterr().out


def test_status_of_nothing_says_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--slot", "9", "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert status["up"] is False
    assert status["mode"] == "down"
    assert status["components"] == {}


def test_what_needs_a_cluster_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load-image", "--slot", "9", "x.tar"]) == 1
    assert "slot 9 is not up; python -m tests.devcluster up --slot 9" in capsys.readouterr().err


def test_a_slot_beyond_the_last_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["status", "--slot", "10"])
    assert caught.value.code == 2


def test_only_the_owner_may_read_keys_and_kubeconfigs() -> None:
    slot = Slot(9)
    create(slot, "127.0.0.1")
    assert slot.pki.stat().st_mode & 0o077 == 0
    assert slot.kubeconfig.stat().st_mode & 0o077 == 0
    document = json.loads(slot.kubeconfig.read_text())
    assert document["clusters"][0]["cluster"]["server"] == f"https://127.0.0.1:{slot.api_port}"
    tokens = (slot.pki / "tokens.csv").read_text().splitlines()
    assert len({line.split(",")[0] for line in tokens}) == len(USERS)
    assert document["users"][0]["user"]["token"] == tokens[0].split(",")[0]
