"""What a model may be asked to be in a soak, as a small value, and the manifest that says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from demo.scenario import DEMO_NAMESPACE, RUNTIME_IMAGE

ENDPOINT = f"http://seaweedfs.{DEMO_NAMESPACE}.svc:8333"
SECRET = "demo-s3"
IMAGE = RUNTIME_IMAGE.tag
OTHER_IMAGE = "localhost/shardedmodel-runtime:soak"
"""The same image under another name, so that a change of it is a new revision that works."""
RANK_MEMORY = "320Mi"
"""Requested for each rank: interpreter and torch take some 300 MiB, the shard nothing."""


class Flaw(StrEnum):
    """What is wrong with a spec on purpose."""

    NONE = "none"
    SOURCE = "source"
    DEGREE = "degree"
    SECRET = "secret"
    IMAGE = "image"


REASONS = {
    Flaw.SOURCE: "NotFound",
    Flaw.DEGREE: "InvalidSharding",
    Flaw.SECRET: "SecretNotFound",
    Flaw.IMAGE: "ImagePullFailed",
}
"""The reason with which each flaw stalls a model (``docs/operating.md``)."""
FLAWS_OF_PODS = frozenset({Flaw.SECRET, Flaw.IMAGE})
"""Those that show when a pod starts, and not before."""
SOURCES = ("llama", "bert")
DTYPES = ("keep", "bfloat16", "float16")
DEGREES = (1, 2)
"""Ranks of a group: each is a process of its own that imports torch, on two cores."""
IMPOSSIBLE_DEGREE = 3
"""Divides the heads of neither source."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one model is asked to be."""

    source: str = "llama"
    revision: int = 1
    tensor: int = 1
    dtype: str = "keep"
    image: str = IMAGE
    setting: int = 0
    """Value of a variable in the rank pods: a change of the template."""
    replicas: int = 1
    suspend: bool = False
    passing: bool = False
    """Whether the layout goes with the model (``retention: Delete``)."""
    recreate: bool = False
    """Whether the old revision goes first (``strategy: Recreate``)."""
    flaw: Flaw = Flaw.NONE

    @property
    def prefix(self) -> str:
        """Folder of the bucket ``shards`` that its layouts lie in."""
        return "passing" if self.passing else "lasting"

    @property
    def ready_reasons(self) -> frozenset[str]:
        """Reasons of the condition Ready with which it may come to rest."""
        if self.suspend:
            return frozenset({"Suspended"})
        well = "Ready" if self.replicas else "ScaledToZero"
        if self.flaw is Flaw.NONE:
            return frozenset({well})
        reasons = {REASONS[self.flaw]}
        if not self.replicas and self.flaw in FLAWS_OF_PODS:
            # Where the layout is there already, no pod starts that would show it.
            reasons.add(well)
        return frozenset(reasons)


def manifest(name: str, choice: Choice) -> dict[str, Any]:
    """The ``ShardedModel`` that asks for ``choice``."""
    flaw = choice.flaw
    source = "no-such-model" if flaw is Flaw.SOURCE else choice.source
    secret = "no-such-secret" if flaw is Flaw.SECRET else SECRET
    image = "localhost/no-such-image:1" if flaw is Flaw.IMAGE else choice.image
    variable = {"name": "SETTING", "value": str(choice.setting)}
    return {
        "apiVersion": "shardedmodel.dev/v1alpha1",
        "kind": "ShardedModel",
        "metadata": {"name": name},
        "spec": {
            "source": _store(f"s3://models/{source}", SECRET) | {"revision": f"r{choice.revision}"},
            "parallelism": {"tensor": IMPOSSIBLE_DEGREE if flaw is Flaw.DEGREE else choice.tensor},
            "sharding": {"dtype": choice.dtype},
            "storage": _store(f"s3://shards/{choice.prefix}", secret)
            | {"retention": "Delete" if choice.passing else "Retain"},
            "replicas": choice.replicas,
            "suspend": choice.suspend,
            "rollout": {"strategy": "Recreate" if choice.recreate else "Surge"},
            "workers": {
                "image": image,
                "backend": "gloo",
                "resources": {"requests": {"cpu": "10m", "memory": RANK_MEMORY}},
                "template": {"spec": {"containers": [{"name": "rank", "env": [variable]}]}},
            },
        },
    }


def _store(uri: str, secret: str) -> dict[str, Any]:
    return {"uri": uri, "endpointUrl": ENDPOINT, "credentialsSecretRef": {"name": secret}}
