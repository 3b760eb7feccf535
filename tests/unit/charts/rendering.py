"""Runs the real Helm on the chart."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.devcluster.tools import helm

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "shardedmodel-operator"
CRD_KIND = "CustomResourceDefinition"
Json = dict[str, Any]


@cache
def run_helm(*sets: str, version: str = "1.30.0") -> subprocess.CompletedProcess[str]:
    values = [part for value in sets for part in ("--set", value)]
    return subprocess.run(
        [
            *(str(helm()), "template", "release", str(CHART), "--namespace", "system"),
            *("--kube-version", version, *values),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rendered(*sets: str, version: str = "1.30.0") -> list[Json]:
    done = run_helm(*sets, version=version)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def only(bodies: list[Json], kind: str) -> Json:
    (found,) = (body for body in bodies if body["kind"] == kind)
    return found


def environment(container: Json) -> dict[str, str]:
    """The variables of a container."""
    return {variable["name"]: variable["value"] for variable in container["env"]}
