"""A real single-node Kubernetes without Docker, for the tests and for the demo.

Usable alone: ``python -m tests.devcluster --help``. From Python::

    from tests.devcluster import Cluster

    with Cluster(slot=1).running() as cluster:
        cluster.load_image(archive)
        subprocess.run([kubectl, "--kubeconfig", cluster.kubeconfig, "get", "nodes"])

The node lives in a mount, network and process namespace of its own. So two clusters do not meet,
the host gets no iptables rule, no bridge and no mount, and ending one process ends the whole node.
"""

from tests.devcluster.cluster import Cluster, Status
from tests.devcluster.errors import DevClusterError
from tests.devcluster.images import build_image

__all__ = ["Cluster", "DevClusterError", "Status", "build_image"]
