"""What the demo does on a cluster, step by step; each function is one of the printed steps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import checkpoints
from demo.clusters import Image, Provider
from demo.console import Console, DemoError
from demo.kubectl import Kubectl
from demo.timeline import Span, as_table, seconds_to_ready, timeline

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shardedmodel" / "demo"

SYSTEM_NAMESPACE = "shardedmodel-system"
DEMO_NAMESPACE = "shardedmodel-demo"
MODELS = ("minilm", "llama")
STORE_WAIT_SECONDS = 120
MODEL_WAIT_SECONDS = 300
"""Several times what it takes on two cores: beyond it something is wrong, not slow."""

OPERATOR_IMAGE = Image(
    "localhost/shardedmodel-operator:demo",
    ROOT / "operator" / "Dockerfile",
    ROOT,
    "SHARDEDMODEL_DEMO_OPERATOR_IMAGE",
)
RUNTIME_IMAGE = Image(
    "localhost/shardedmodel-runtime:demo",
    ROOT / "loader_runtime" / "Dockerfile",
    ROOT,
    "SHARDEDMODEL_DEMO_RUNTIME_IMAGE",
)
STORE_IMAGE = Image(
    "localhost/shardedmodel-seaweedfs:demo",
    EXAMPLES / "seaweedfs" / "Dockerfile",
    EXAMPLES / "seaweedfs",
    "SHARDEDMODEL_DEMO_SEAWEEDFS_IMAGE",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model's way to Ready was made of."""

    model: dict[str, Any]
    spans: list[Span]


def provide_images(provider: Provider, console: Console) -> dict[str, str]:
    """Make the three images available; returns the reference of each by its tag."""
    references = {}
    for image in (OPERATOR_IMAGE, RUNTIME_IMAGE, STORE_IMAGE):
        console.say(f"{image.dockerfile.relative_to(ROOT)} → {image.tag}")
        references[image.tag] = provider.provide(image, console.say)
    return references


def start_store(kubectl: Kubectl, references: dict[str, str]) -> None:
    """Apply the S3 server's manifest and wait for it."""
    kubectl.apply(EXAMPLES / "demo" / "namespace.yaml")
    manifest = (EXAMPLES / "seaweedfs" / "seaweedfs.yaml").read_text()
    manifest = manifest.replace(STORE_IMAGE.tag, references[STORE_IMAGE.tag])
    kubectl.run("apply", "-n", DEMO_NAMESPACE, "-f", "-", stdin=manifest)
    kubectl.run(
        *("rollout", "status", "-n", DEMO_NAMESPACE, "deployment/seaweedfs"),
        f"--timeout={STORE_WAIT_SECONDS}s",
        timeout=STORE_WAIT_SECONDS + 10,
    )


def install_operator(kubectl: Kubectl, references: dict[str, str]) -> None:
    """Install, or upgrade, the operator with its Helm chart."""
    arguments = [
        *("upgrade", "--install", "shardedmodel-operator"),
        str(ROOT / "charts" / "shardedmodel-operator"),
        *("--namespace", SYSTEM_NAMESPACE, "--create-namespace"),
        *("--set", f"image.reference={references[OPERATOR_IMAGE.tag]}"),
        *("--set", f"runtimeImage={references[RUNTIME_IMAGE.tag]}"),
        *("--wait", "--timeout", "120s"),
    ]
    kubectl.helm(*arguments, timeout=180)


def upload_checkpoints(kubectl: Kubectl, console: Console) -> None:
    """Bring both checkpoints into the S3 server."""
    secret = store_credentials()
    with kubectl.forward(DEMO_NAMESPACE, "service/seaweedfs", 8333) as port:
        store = checkpoints.Store(
            f"http://127.0.0.1:{port}", secret["AWS_ACCESS_KEY_ID"], secret["AWS_SECRET_ACCESS_KEY"]
        )
        checkpoints.make_buckets(store)
        for name, folder in (
            ("minilm", checkpoints.minilm_folder()),
            ("llama", checkpoints.llama_folder(CACHE)),
        ):
            checkpoints.upload(store, folder, prefix=name, say=console.say)


def run_model(kubectl: Kubectl, name: str, console: Console) -> Outcome:
    """Apply one ``ShardedModel``, wait for Ready, and read where the time went."""
    kubectl.apply(EXAMPLES / "demo" / f"{name}.yaml", namespace=DEMO_NAMESPACE)
    kubectl.run(
        *("wait", "-n", DEMO_NAMESPACE, "--for=condition=Ready", f"shardedmodel/{name}"),
        f"--timeout={MODEL_WAIT_SECONDS}s",
        timeout=MODEL_WAIT_SECONDS + 10,
    )
    outcome = read_outcome(kubectl, name)
    console.say(f"{name}: Ready {seconds_to_ready(outcome.model):.0f} s after the apply")
    return outcome


def read_outcome(kubectl: Kubectl, name: str) -> Outcome:
    """Collect the objects of one model and cut its time into phases."""
    selector = ("-n", DEMO_NAMESPACE, "-l", f"shardedmodel.dev/model={name}")
    model = kubectl.get("shardedmodel", name, "-n", DEMO_NAMESPACE)
    jobs = kubectl.get("jobs", *selector)["items"]
    pods = kubectl.get("pods", *selector)["items"]
    sets = kubectl.get("statefulsets", *selector)["items"]
    owned_by_job = [pod for pod in pods if _owner_kind(pod) == "Job"]
    ranks = [pod for pod in pods if _owner_kind(pod) == "StatefulSet"]
    spans = timeline(model, jobs[-1] if jobs else None, owned_by_job, sets, ranks)
    return Outcome(model, spans)


def show(kubectl: Kubectl, outcomes: list[Outcome]) -> None:
    """Print what a person wants to see at the end."""
    print("\n$ kubectl get shardedmodels -o wide")
    print(kubectl.run("get", "shardedmodels", "-n", DEMO_NAMESPACE, "-o", "wide"))
    first = outcomes[0].model
    name = first["metadata"]["name"]
    print(f"$ kubectl get shardedmodel {name} -o jsonpath={{.status}}")
    print(json.dumps(first["status"], indent=2))
    print(f"\n$ kubectl events --for shardedmodel/{name}")
    print(kubectl.run("events", "-n", DEMO_NAMESPACE, "--for", f"shardedmodel/{name}"))
    for outcome in outcomes:
        print(f"Where the time of {outcome.model['metadata']['name']} went:")
        print("\n".join(f"  {line}" for line in as_table(outcome.spans)) + "\n")


def remove(kubectl: Kubectl) -> None:
    """Take operator, models and store out of a cluster that stays."""
    kubectl.run("delete", "namespace", DEMO_NAMESPACE, "--ignore-not-found", timeout=180)
    if "shardedmodel-operator" in kubectl.helm("list", "-n", SYSTEM_NAMESPACE, "-q"):
        kubectl.helm("uninstall", "shardedmodel-operator", "-n", SYSTEM_NAMESPACE)
    kubectl.run("delete", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", timeout=180)


def wait_for_api(kubectl: Kubectl, seconds: float = 60) -> None:
    """Wait until the API server answers and a node is Ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if " Ready" in kubectl.run("get", "nodes", "--no-headers", check=False):
            return
        time.sleep(1)
    raise DemoError(f"no node was Ready within {seconds:.0f} s; try `kubectl describe nodes`")


def store_credentials() -> dict[str, str]:
    """The demo's key pair, read from the manifest that defines it."""
    import yaml

    documents = yaml.safe_load_all((EXAMPLES / "seaweedfs" / "seaweedfs.yaml").read_text())
    secrets = {each["metadata"]["name"]: each for each in documents if each["kind"] == "Secret"}
    data: dict[str, str] = secrets["demo-s3"]["stringData"]
    return data


def _owner_kind(item: dict[str, Any]) -> str:
    owners = item["metadata"].get("ownerReferences") or [{}]
    return str(owners[0].get("kind", ""))
