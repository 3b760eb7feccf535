"""docs/python.md runs as it stands, in the order in which it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.pods import free_port

pytestmark = pytest.mark.integration

DOCUMENT = (Path(__file__).parents[4] / "docs" / "python.md").read_text()
FILE = re.compile(r"`(\w+\.(?:py|yaml))`[^\n]*\n\n```(?:python|yaml)\n(.*?)^```$", re.M | re.S)
"""Its name, in the paragraph before it, and its text."""
SECONDS = 300
"""Longest time of all commands: importing torch, a dozen times, takes most of it."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)


def test_every_command_does_what_is_said(tmp_path: Path) -> None:
    files = dict(FILE.findall(DOCUMENT))
    assert len(files) == len(blocks("python")) + len(blocks("yaml"))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    commands = "\n".join(["set -eux", *blocks("console")]).replace("29555", str(free_port()))
    ended = subprocess.run(
        ["bash", "-c", commands],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PET_MASTER_PORT": str(free_port()),  # torchrun's own; it has one port otherwise
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "",  # two ranks print at once: each its lines in one piece
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.splitlines()
    told = [line for text in blocks("text") for line in text.splitlines()]
    assert told
    assert [line for line in told if line not in printed] == []
