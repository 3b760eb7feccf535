"""The Services of a model: one for each rank group, and its own."""

from __future__ import annotations

from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.job import owner_reference
from shardedmodel_operator.planning.names import group_name
from shardedmodel_runtime.report import HTTP_PORT, MASTER_PORT


def headless_service(model: ShardedModel, revision: str, group: int) -> dict[str, Any]:
    """Make the Service that gives a group's pods their names."""
    selector = labels.group_selector(model.name, revision, group)
    own_labels = labels.common(model.name, labels.ROLE_RANK) | selector
    return _service(
        model,
        group_name(model.name, revision, group),
        own_labels,
        {
            "clusterIP": "None",
            # Ranks find rank 0 before anybody is ready.
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [
                _port("http", HTTP_PORT),
                _port("rendezvous", MASTER_PORT),
            ],
        },
    )


def endpoint_selector(model: str, revision: str) -> dict[str, str]:
    """What the model's Service selects: all ready rank pods of one revision."""
    return {labels.MODEL: model, labels.ROLE: labels.ROLE_RANK, labels.REVISION: revision}


def endpoint_service(model: ShardedModel, revision: str) -> dict[str, Any]:
    """Make the model's own Service, sending to ``revision``; its selector is the memory of it."""
    return _service(
        model,
        model.name,
        labels.common(model.name, labels.ROLE_ENDPOINT),
        {
            "selector": endpoint_selector(model.name, revision),
            "ports": [_port("http", HTTP_PORT)],
        },
    )


def _service(
    model: ShardedModel, name: str, own_labels: dict[str, str], spec: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": model.namespace,
            "labels": own_labels,
            "ownerReferences": [owner_reference(model)],
        },
        "spec": spec,
    }


def _port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
