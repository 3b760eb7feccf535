"""Doing what the script says: each model's actions in their order, models beside each other."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from demo.console import DemoError
from demo.kubectl import Kubectl
from demo.scenario import DEMO_NAMESPACE
from tests.devcluster.api import Api, ApiError
from tests.soak.choices import Choice, manifest
from tests.soak.faults import Faults
from tests.soak.script import Action, Kind, Script
from tests.soak.state import MODEL_PATH

GONE_SECONDS = 660.0
"""A model whose layout cannot be deleted is let go after ten minutes; beyond it, it hangs."""
POLL_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass
class Tally:
    """What became of the actions."""

    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Kills that found nothing to kill."""
    failed: list[str] = field(default_factory=list)
    """Actions that the cluster refused, each with why."""


class Actor:
    """Carries out a script on one cluster."""

    def __init__(self, kubectl: Kubectl, api: Api, faults: Faults, say: Say) -> None:
        self._kubectl = kubectl
        self._api = api
        self._faults = faults
        self._say = say
        self._lock = threading.Lock()
        self.tally = Tally()

    def play(self, script: Script) -> None:
        """Do everything in its time; returns when the last action has been done.

        What a model's former action delays (its deletion, most of all) comes late, and delays no
        other model's.
        """
        with ExitStack() as stack:
            lanes = {
                name: stack.enter_context(ThreadPoolExecutor(max_workers=1))
                for name in (*script.models, "")
            }
            began = time.monotonic()
            for action in script.actions:
                time.sleep(max(0.0, began + action.at - time.monotonic()))
                lanes[action.model].submit(self._perform, action)
            time.sleep(max(0.0, began + script.seconds - time.monotonic()))

    def _perform(self, action: Action) -> None:
        try:
            hit = self._act(action)
        except (DemoError, ApiError) as error:
            with self._lock:
                self.tally.failed.append(f"{action}: {error}")
            self._say(f"{action}: FAILED: {error}")
            return
        with self._lock:
            (self.tally.done if hit else self.tally.missed)[str(action.kind)] += 1
        self._say(f"{action}: {hit or 'nothing there'}")

    def _act(self, action: Action) -> str:
        """Do it; returns what was done, empty where there was nothing to do it to."""
        match action.kind:
            case Kind.KILL_OPERATOR:
                return self._faults.kill_operator()
            case Kind.KILL_STORE:
                return self._faults.kill_store()
            case Kind.KILL_RANK:
                return self._faults.kill_pod_of(action.model, "rank", action.pick)
            case Kind.KILL_JOB:
                return self._faults.kill_pod_of(action.model, "shard", action.pick)
            case Kind.DELETE:
                return self._delete(action.model)
            case Kind.RECREATE:
                self._delete(action.model)
        assert action.choice is not None
        if action.kind is Kind.SCALE:
            return self._scale(action.model, action.choice)
        return self._apply(action.model, action.choice)

    def _apply(self, name: str, choice: Choice) -> str:
        self._wait_until_gone(name)
        body = json.dumps(manifest(name, choice))
        return self._kubectl.run("apply", "-n", DEMO_NAMESPACE, "-f", "-", stdin=body).strip()

    def _scale(self, name: str, choice: Choice) -> str:
        arguments = ("-n", DEMO_NAMESPACE, f"--replicas={choice.replicas}")
        self._kubectl.run("scale", "shardedmodel", name, *arguments)
        return f"to {choice.replicas}"

    def _delete(self, name: str) -> str:
        self._kubectl.run("delete", "shardedmodel", name, "-n", DEMO_NAMESPACE, "--wait=false")
        return "asked to go"

    def _wait_until_gone(self, name: str) -> None:
        """Wait for a former model of this name that is on its way out.

        ``kubectl apply`` would change that one, and not make another.

        Raises:
            DemoError: it is still there after ``GONE_SECONDS``.
        """
        deadline = time.monotonic() + GONE_SECONDS
        while self._is_leaving(name):
            if time.monotonic() > deadline:
                raise DemoError(f"{name} is still on its way out after {GONE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _is_leaving(self, name: str) -> bool:
        try:
            return "deletionTimestamp" in self._api.get(f"{MODEL_PATH}/{name}")["metadata"]
        except ApiError as error:
            if error.status == 404:
                return False
            raise
