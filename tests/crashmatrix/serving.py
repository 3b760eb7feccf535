"""Whether a model served all the time: its condition, and the addresses of its Service."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.crashmatrix.lane import MODEL
from tests.integration.operator.world import Admin

LOOK_SECONDS = 0.2
ENDPOINTS = "/api/v1/namespaces/{}/endpoints"


class Serving:
    """Looks from a thread of its own while the body runs; what it could not see it does not say."""

    def __init__(self, admin: Admin) -> None:
        """Look at the model of ``admin``'s namespace."""
        self._admin = Admin(admin.kubeconfig, admin.namespace)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.gaps: list[str] = []
        """What was seen to be missing, each once."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._admin.close()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                available = self._admin.condition(MODEL, "Available")
                endpoints = self._admin.get(ENDPOINTS, MODEL)
            except (ApiException, HTTPError, OSError):
                continue
            if available.get("status") != "True":
                self._tell(f"Available is {available.get('status')}: {available.get('reason')}")
            if not any(subset.get("addresses") for subset in endpoints.get("subsets") or []):
                self._tell("the Service has no address")

    def _tell(self, gap: str) -> None:
        if gap not in self.gaps:
            self.gaps.append(gap)
