"""The cluster that a soak runs on: the development cluster, with everything in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo import checkpoints, scenario
from demo.checkpoints import Store
from demo.clusters import DevCluster, client_tools
from demo.console import Console
from demo.kubectl import Kubectl
from tests.builders.checkpoint import (
    bert_config,
    bert_shapes,
    llama_config,
    llama_shapes,
    write_checkpoint,
)
from tests.devcluster import Cluster
from tests.soak.choices import IMAGE, OTHER_IMAGE

OPERATORS = 2
"""One acts and one waits: a kill is a hand-over, as where it matters."""
ROLLOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster with operators, S3 server and checkpoints, and the ways to it."""

    cluster: Cluster
    kubectl: Kubectl

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The S3 server, through a port that is forwarded while the body runs."""
        keys = scenario.store_credentials()
        with self.kubectl.forward(scenario.DEMO_NAMESPACE, "service/seaweedfs", 8333) as port:
            yield Store(
                f"http://127.0.0.1:{port}", keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]
            )


@contextmanager
def site(slot: int, keep: bool) -> Iterator[Site]:
    """Bring a new cluster up, and take it away afterwards unless it is to be kept."""
    provider, console = DevCluster(slot), Console(steps=5)
    with console.step("Kubernetes"):
        Cluster(slot).down(progress=console.say)
        provider.up(console.say)
    try:
        made = Site(Cluster(slot), Kubectl(*client_tools(), provider.kubeconfig()))
        scenario.wait_for_api(made.kubectl)
        with console.step("images"):
            references = scenario.provide_images(provider, console)
            made.cluster.tag_image(IMAGE, OTHER_IMAGE)
        with console.step("S3 server"):
            scenario.start_store(made.kubectl, references)
        with console.step("operators"):
            scenario.install_operator(made.kubectl, references)
            _scale_operators(made.kubectl)
        with console.step("checkpoints"):
            _upload(made)
        yield made
    finally:
        if not keep:
            provider.down(console.say)


def _scale_operators(kubectl: Kubectl) -> None:
    target = ("-n", scenario.SYSTEM_NAMESPACE, "deployment/shardedmodel-operator")
    kubectl.run("scale", *target, f"--replicas={OPERATORS}")
    kubectl.run(
        *("rollout", "status", *target, f"--timeout={ROLLOUT_SECONDS}s"),
        timeout=ROLLOUT_SECONDS + 10,
    )


def _upload(made: Site) -> None:
    """Bring two checkpoints of some hundred kilobytes into the S3 server."""
    with tempfile.TemporaryDirectory() as folder, made.store() as store:
        checkpoints.make_buckets(store)
        llama, bert = llama_config(), bert_config()
        write_checkpoint(Path(folder, "llama"), llama, llama_shapes(llama))
        write_checkpoint(Path(folder, "bert"), bert, bert_shapes(bert))
        for name in ("llama", "bert"):
            checkpoints.upload(store, Path(folder, name), prefix=name, say=lambda _line: None)
