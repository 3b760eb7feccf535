"""A thin hold on ``kubectl`` and ``helm``: run, read JSON, wait, forward a port."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.console import DemoError

COMMAND_TIMEOUT_SECONDS = 60
"""No single call of kubectl should take longer; those that wait state their own time."""


ERROR_LINES = 10
"""The end of what a failed command said: its reason stands there, after any warnings."""


class Kubectl:
    """``kubectl`` and ``helm`` against one cluster."""

    def __init__(self, kubectl: Path, helm: Path, kubeconfig: Path | None) -> None:
        self._kubectl = kubectl
        self._helm = helm
        self._environment = dict(os.environ)
        if kubeconfig is not None:
            self._environment["KUBECONFIG"] = str(kubeconfig)

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout: float = COMMAND_TIMEOUT_SECONDS,
        check: bool = True,
    ) -> str:
        """Run ``kubectl`` and return its output.

        Raises:
            DemoError: it failed (with ``check``) or ran past ``timeout`` seconds.
        """
        return self._call([str(self._kubectl), *arguments], stdin, timeout, check)

    def helm(self, *arguments: str, timeout: float = 120) -> str:
        """Run ``helm`` and return its output.

        Raises:
            DemoError: it failed or ran past ``timeout`` seconds.
        """
        return self._call([str(self._helm), *arguments], None, timeout, True)

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get … -o json``, parsed."""
        parsed: dict[str, Any] = json.loads(self.run("get", *arguments, "-o", "json"))
        return parsed

    def apply(self, *paths: Path, namespace: str | None = None) -> str:
        """``kubectl apply`` of files, in their order."""
        scope = ["--namespace", namespace] if namespace else []
        files = [part for path in paths for part in ("--filename", str(path))]
        return self.run("apply", *scope, *files)

    @contextmanager
    def forward(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """Forward a free local port to ``target``'s ``port`` while the block runs.

        Yields:
            The local port.
        """
        command = [str(self._kubectl), "port-forward", "-n", namespace, target, f":{port}"]
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield _forwarded_port(process)
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    def _call(self, command: Sequence[str], stdin: str | None, timeout: float, check: bool) -> str:
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise DemoError(f"{' '.join(command[:4])} …: no end after {timeout:.0f} s") from e
        if check and done.returncode != 0:
            words = " ".join([Path(command[0]).name, *command[1:]])
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise DemoError("\n".join([f"{words}:", *said[-ERROR_LINES:]]))
        return done.stdout


def _forwarded_port(process: subprocess.Popen[str]) -> int:
    """Read the port from the line that kubectl prints first."""
    line = process.stdout.readline() if process.stdout is not None else ""
    match = re.search(r"127\.0\.0\.1:(\d+)", line)
    if match is None:
        raise DemoError(f"kubectl port-forward: {line.strip() or 'ended at once'}")
    return int(match.group(1))
