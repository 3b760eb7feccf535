"""Where the API server is, and who calls it."""

from __future__ import annotations

import kubernetes

from shardedmodel_operator.errors import ClusterUnavailable
from shardedmodel_runtime.errors import excerpt

CONNECTIONS = 72
"""Connections that are kept: one for each worker there may be and some for all else. They are made
as they are needed; the client's default of five per processor would throw away those beyond, and
each new one costs a TLS handshake."""


def load_configuration() -> kubernetes.client.Configuration:
    """Find the API server and credentials as kubectl does: kubeconfig, else ServiceAccount.

    Raises:
        ClusterUnavailable: there is neither, or it cannot be read.
    """
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_kube_config(client_configuration=configuration)
    except kubernetes.config.ConfigException as outside:
        try:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except kubernetes.config.ConfigException as inside:
            raise ClusterUnavailable(
                f"no cluster is configured: {excerpt(str(outside))}; {excerpt(str(inside))}; "
                "run in a pod with a ServiceAccount, or set KUBECONFIG"
            ) from inside
    # Retries are the queue's: urllib3 would repeat a create whose answer was lost.
    configuration.retries = False
    configuration.connection_pool_maxsize = CONNECTIONS
    return configuration
