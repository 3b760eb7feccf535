"""When the parts of a cluster count as ready, asked of its API server."""

from __future__ import annotations

from tests.devcluster.api import Api, ApiError
from tests.devcluster.credentials import NODE_NAME


def version(api: Api) -> str | None:
    """Returns the API server's version, None if it does not answer."""
    try:
        return str(api.get("/version")["gitVersion"])
    except ApiError:
        return None


def server(api: Api) -> bool:
    """Whether the API server serves."""
    try:
        return api.text("/readyz") == "ok"
    except ApiError:
        return False


def node(api: Api) -> bool:
    """Whether pods can be scheduled: the node is Ready and its first taint is gone."""
    try:
        found = api.get(f"/api/v1/nodes/{NODE_NAME}")
    except ApiError:
        return False
    conditions = {item["type"]: item["status"] for item in found["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and not found["spec"].get("taints")


def accounts(api: Api) -> bool:
    """Whether pods can be created: the controller-manager has made the first ServiceAccount."""
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except ApiError:
        return False
    return True
