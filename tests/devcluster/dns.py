"""The cluster's names: a loop that writes Services and their endpoints where dnsmasq reads them.

Run as ``python -m tests.devcluster.dns KUBECONFIG FILE``. Two watches, on Services and on
Endpoints, keep the file in step; dnsmasq notices by itself that it was replaced.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.devcluster.api import Api, ApiError

DOMAIN = "svc.cluster.local"

#: The server ends a watch after this long and the loop begins the next one.
WATCH_SECONDS = 300

#: Between attempts while the API server is away; the names last known stay.
RETRY_SECONDS = 0.2

#: Changes that come together, such as all pods of a set, become one file.
SETTLE_SECONDS = 0.05

Object = Mapping[str, Any]
Key = tuple[str, str]


def hosts(services: Iterable[Object], endpoints: Iterable[Object]) -> str:
    """Returns the names and addresses of all Services, as a hosts file has them.

    A Service with a ClusterIP has that address. A headless Service has those of all its endpoints,
    and each endpoint with a hostname has a name of its own. Endpoints that are not ready are
    absent, unless the Service publishes them: Kubernetes then lists them among the ready ones.
    """
    lines: set[str] = set()
    headless: set[Key] = set()
    for service in services:
        namespace, name = _key(service)
        address = service["spec"].get("clusterIP")
        if address == "None":
            headless.add((namespace, name))
        elif address:
            lines.add(f"{address} {name}.{namespace}.{DOMAIN}")
    for item in endpoints:
        namespace, name = _key(item)
        if (namespace, name) not in headless:
            continue
        for subset in item.get("subsets") or ():
            for address in subset.get("addresses") or ():
                lines.add(f"{address['ip']} {name}.{namespace}.{DOMAIN}")
                if hostname := address.get("hostname"):
                    lines.add(f"{address['ip']} {hostname}.{name}.{namespace}.{DOMAIN}")
    return "".join(line + "\n" for line in sorted(lines))


def _key(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


class Mirror(threading.Thread):
    """Keeps a copy of all objects of a kind."""

    def __init__(self, api: Api, path: str, changed: threading.Event) -> None:
        super().__init__(daemon=True)
        self.objects: dict[Key, Object] = {}
        self.synced = False
        self._api = api
        self._path = path
        self._changed = changed

    def run(self) -> None:
        """Lists and watches, again and again."""
        while True:
            try:
                self._follow()
            except ApiError as error:
                print(error, flush=True)
                time.sleep(RETRY_SECONDS)

    def _follow(self) -> None:
        listing = self._api.get(self._path)
        self.objects = {_key(item): item for item in listing["items"]}
        self.synced = True
        self._changed.set()
        version = listing["metadata"]["resourceVersion"]
        for event in self._api.watch(self._path, version, WATCH_SECONDS):
            item = event["object"]
            if event["type"] == "ERROR":
                return
            # Replaced, not changed: the writer reads it from another thread.
            objects = dict(self.objects)
            if event["type"] == "DELETED":
                objects.pop(_key(item), None)
            else:
                objects[_key(item)] = item
            self.objects = objects
            self._changed.set()


def main(kubeconfig: Path, target: Path) -> None:
    """Writes the file whenever names change, for ever."""
    changed = threading.Event()
    api = Api(kubeconfig)
    services = Mirror(api, "/api/v1/services", changed)
    endpoints = Mirror(api, "/api/v1/endpoints", changed)
    services.start()
    endpoints.start()
    written = None
    while True:
        changed.wait()
        time.sleep(SETTLE_SECONDS)
        changed.clear()
        if not (services.synced and endpoints.synced):
            continue
        text = hosts(services.objects.values(), endpoints.objects.values())
        if text != written:
            # dnsmasq skips names that begin with a dot, and reads what is renamed into place.
            temporary = target.with_name("." + target.name)
            temporary.write_text(text)
            temporary.replace(target)
            written = text


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
