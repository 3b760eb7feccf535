"""One life's surroundings: a namespace with a model in it, and an operator that serves it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from shardedmodel_operator.cluster.resources import OPTIONAL, WATCHED, Resource
from tests.crashmatrix.executioner import Executioner
from tests.crashmatrix.states import State, state_of
from tests.crashmatrix.store import CHECKPOINT, SHARDS, SOURCE, LaneStore
from tests.integration.operator.world import MODELS, Admin, OperatorProcess

MODEL = "m"
PORT = 8333
"""Of the lane's S3 server, as pods see it."""
STORE = "store"
"""Service of the lane's S3 server. It has one name in every namespace, so that every life asks for
the same, and what the operator makes has the same names."""
SECRET = "store-s3"
RUNTIME_IMAGE = "localhost/shardedmodel-runtime:demo"
START_SECONDS = 120.0
"""Of an operator: several lives at a time keep the machine busy."""
POLL_SECONDS = 0.5
"""Between two looks at all that there is: seven requests."""


class NotAlike(AssertionError):
    """The end is another than that of an undisturbed life, or did not come in time."""


@dataclass
class Lane:
    """A life's surroundings; ``world`` makes them."""

    admin: Admin
    """All rights, in the life's namespace."""
    store: LaneStore
    executioner: Executioner
    kubeconfig: Path
    """The operator's: it leads to the proxy, with the chart's rights."""
    logs: Path
    operators: int = 0
    """Operators that were started."""
    _operator: OperatorProcess | None = field(default=None)

    def start_operator(self) -> None:
        """Start an operator that serves the namespace alone, and wait until it is ready."""
        self.operators += 1
        process = OperatorProcess(
            self.kubeconfig,
            self.logs / f"{self.admin.namespace}-operator-{self.operators}.log",
            *("--namespace", self.admin.namespace),
            variables={"SHARDEDMODEL_RUNTIME_IMAGE": RUNTIME_IMAGE},
            ready_within=START_SECONDS,
        )
        self._operator = process
        process.__enter__()

    def kill_operator(self) -> None:
        """End it by SIGKILL."""
        if self._operator is not None:
            self._operator.kill()

    def apply(self, **spec: Any) -> None:
        """Create the model, or change parts of its spec."""
        self.admin.apply_model(MODEL, **{**self._spec(), **spec})

    def delete(self) -> None:
        """Delete the model."""
        self.admin.request("DELETE", f"{MODELS}/{MODEL}")

    def model(self) -> dict[str, Any] | None:
        """The model as it is now; None when it has gone."""
        try:
            return self.admin.get(MODELS, MODEL)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def bodies(self) -> list[dict[str, Any]]:
        """All objects of the kinds that the operator handles."""
        found: list[dict[str, Any]] = []
        for resource in (*WATCHED, *OPTIONAL):
            named = {"apiVersion": resource.api_version, "kind": resource.kind}
            # The lane's own Service stands for a name of the network.
            items = [i for i in self._list(resource) if i["metadata"]["name"] != STORE]
            found += [{**item, **named} for item in items]
        return found

    def _list(self, resource: Resource) -> Sequence[dict[str, Any]]:
        try:
            return self.admin.list(resource.path(self.admin.namespace))
        except ApiException as error:
            if error.status == 404 and resource in OPTIONAL:
                return ()
            raise

    def state(self, *, traces: bool = True) -> State:
        """What there is, for comparison."""
        return state_of(self.bodies(), self.store.content(), traces=traces)

    def pods(self, role: str) -> list[dict[str, Any]]:
        """The model's pods of a role that are not on their way out, by name."""
        path = f"/api/v1/namespaces/{{}}/pods?labelSelector=shardedmodel.dev/role={role}"
        pods = [p for p in self.admin.list(path) if "deletionTimestamp" not in p["metadata"]]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    @staticmethod
    def _spec() -> dict[str, Any]:
        store = {
            "endpointUrl": f"http://{STORE}:{PORT}",
            "credentialsSecretRef": {"name": SECRET},
        }
        return {
            "source": {"uri": f"s3://{SOURCE}/{CHECKPOINT}", **store},
            "storage": {"uri": f"s3://{SHARDS}", "retention": "Delete", **store},
            "parallelism": {"tensor": 2},
        }


def until(done: Callable[[], bool], what: Callable[[], str], seconds: float) -> None:
    """Wait for ``done``; an API server that does not answer is waited for as well.

    Raises:
        NotAlike: it was not so in time; says ``what``.
    """
    deadline = time.monotonic() + seconds
    while not answered(done):
        if time.monotonic() > deadline:
            raise NotAlike(f"not within {seconds:.0f} s: {what()}")
        time.sleep(POLL_SECONDS)


def answered(question: Callable[[], bool]) -> bool:
    """Ask; False where the API server cannot be reached or is just coming up."""
    try:
        return question()
    except (HTTPError, OSError):
        return False
    except ApiException as error:
        if error.status in (0, 401, 403, 404, 429) or error.status >= 500:
            return False
        raise
