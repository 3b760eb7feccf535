"""Overrides of the pod template: their shape, and what may not be overridden.

What a namespace allows its pods is decided by its admission, whoever writes the template: nothing
is refused here for being privileged. Refused is what would break ranks, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardedmodel_operator.api.problem import Problem
from shardedmodel_operator.api.spec import Workers
from shardedmodel_runtime.report import HTTP_PORT, MASTER_PORT

RESERVED_PREFIX = "shardedmodel.dev/"
"""Label keys under it are the operator's own: it finds its objects by them."""
CONTAINER_LISTS: Mapping[str, tuple[str, type]] = {
    "env": ("name", str),
    "volumeMounts": ("mountPath", str),
    "ports": ("containerPort", int),
}
"""Lists of a container that are merged, by the field that names their items (PodSpec)."""
RANK = "rank"
"""The container that overrides are merged into."""
OWNED_POD_FIELDS: Mapping[str, str] = {
    "activeDeadlineSeconds": "would end ranks that serve; leave it out",
    "ephemeralContainers": "are no part of a template; use kubectl debug",
    "hostname": "ranks find each other by the names of their pods; leave it out",
    "restartPolicy": "ranks are always restarted; leave it out",
    "setHostnameAsFQDN": "ranks find each other by the names of their pods; leave it out",
    "subdomain": "ranks find each other by the names of their pods; leave it out",
}
"""Fields of the pod that cannot be overridden, and why or what to use."""
OWNED_CONTAINER_FIELDS: Mapping[str, str] = {
    "args": "is the operator's; use spec.workers.entrypoint for code of your own",
    "command": "is the operator's; use spec.workers.entrypoint for code of your own",
    "image": "would not reach the pre-shard Job; use spec.workers.image",
    "terminationMessagePath": "is where ranks say why they ended; leave it out",
    "terminationMessagePolicy": "is how ranks say why they ended; leave it out",
}
"""Fields of the container ``rank`` that cannot be overridden, and why or what to use."""
OWNED_VARIABLES = frozenset({"MASTER_ADDR", "MASTER_PORT", "NODE_NAME", "POD_IP", "POD_NAME"})
"""Environment by which a rank knows itself and rank 0."""
OWNED_PORTS = frozenset({HTTP_PORT, MASTER_PORT})
"""Ports of reports and of the group's rendezvous."""


def template_problems(workers: Workers) -> Iterator[Problem]:
    """Everything wrong with ``spec.workers.template``."""
    template, path = workers.template, "spec.workers.template"
    for key in sorted(template.keys() - {"metadata", "spec"}):
        yield Problem(f"{path}.{key}", "is not part of a pod template; use metadata or spec")
    for section in ("metadata", "spec"):
        if not isinstance(template.get(section, {}), dict):
            yield Problem(f"{path}.{section}", "is not an object")
            return
    yield from _metadata(f"{path}.metadata", template.get("metadata", {}))
    yield from _directives(path, template)
    found = list(_named_lists(f"{path}.spec", template.get("spec", {})))
    yield from found
    if not found:
        yield from _owned(f"{path}.spec", template.get("spec", {}))
        yield from _placement(f"{path}.spec", template.get("spec", {}), workers)


def _metadata(path: str, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    for key in sorted(metadata.keys() - {"labels", "annotations"}):
        yield Problem(f"{path}.{key}", "cannot be overridden; labels and annotations can")
    for section in ("labels", "annotations"):
        if not isinstance(metadata.get(section, {}), dict):
            yield Problem(f"{path}.{section}", "is not an object")
            return
    for key in sorted(metadata.get("labels", {})):
        if key.startswith(RESERVED_PREFIX):
            yield Problem(f"{path}.labels[{key}]", f"{RESERVED_PREFIX} is the operator's own")


def _named_lists(path: str, spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Lists that are merged by name need names; without one an override would go nowhere."""
    for field in ("containers", "initContainers", "volumes"):
        items = spec.get(field, [])
        if not isinstance(items, list):
            yield Problem(f"{path}.{field}", "is not a list")
            continue
        for index, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                yield Problem(f"{path}.{field}[{index}].name", "is required")
            elif field != "volumes":
                yield from _container_lists(f"{path}.{field}[{index}]", item)


def _container_lists(path: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    for field, (key, kind) in CONTAINER_LISTS.items():
        items = container.get(field, [])
        if not isinstance(items, list):
            yield Problem(f"{path}.{field}", "is not a list")
            continue
        for index, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get(key), kind):
                yield Problem(f"{path}.{field}[{index}].{key}", "is required")


def _directives(path: str, value: Any) -> Iterator[Problem]:
    """Directives of kubectl's strategic merge, which would reach the API server as fields."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                yield Problem(f"{path}.{key}", "is not known; null removes a field")
            else:
                yield from _directives(f"{path}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _directives(f"{path}[{index}]", item)


def _owned(path: str, spec: Mapping[str, Any]) -> Iterator[Problem]:
    """What cannot be overridden, of a pod whose lists have the right shape."""
    for field in sorted(OWNED_POD_FIELDS.keys() & spec.keys()):
        yield Problem(f"{path}.{field}", OWNED_POD_FIELDS[field])
    for index, container in enumerate(spec.get("containers", [])):
        if container["name"] == RANK:
            yield from _owned_of_rank(f"{path}.containers[{index}]", container)


def _owned_of_rank(path: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    for field in sorted(OWNED_CONTAINER_FIELDS.keys() & container.keys()):
        yield Problem(f"{path}.{field}", OWNED_CONTAINER_FIELDS[field])
    for index, item in enumerate(container.get("env", [])):
        if item["name"] in OWNED_VARIABLES:
            told = f"{item['name']} is how a rank knows its place; remove it"
            yield Problem(f"{path}.env[{index}].name", told)
    for index, item in enumerate(container.get("ports", [])):
        if item["containerPort"] in OWNED_PORTS:
            told = f"{item['containerPort']} is the operator's own; use another"
            yield Problem(f"{path}.ports[{index}].containerPort", told)


def _placement(path: str, spec: Mapping[str, Any], workers: Workers) -> Iterator[Problem]:
    if spec.get("hostNetwork") and spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
        told = "ranks would not find rank 0 by its name; set dnsPolicy: ClusterFirstWithHostNet"
        yield Problem(f"{path}.hostNetwork", told)
    affinity = spec.get("affinity")
    if workers.exclusive_topology and isinstance(affinity, dict):
        for field in sorted({"podAffinity", "podAntiAffinity"} & affinity.keys()):
            told = "is what spec.workers.exclusiveTopology sets; use one of them"
            yield Problem(f"{path}.affinity.{field}", told)
