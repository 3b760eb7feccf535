"""``spec``: what a user asks for. The one source of the CRD's schema and of the reference.

Kubernetes drops fields that the schema does not know, and fields that this release would ignore
are not here: what is accepted is done.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from shardedmodel_operator.api.base import MAX_URI, ApiModel, LongText, ShortText, cel
from shardedmodel_operator.api.network import NetworkPolicy
from shardedmodel_operator.api.sharding import Sharding
from shardedmodel_operator.api.stores import Source, Storage
from shardedmodel_runtime.parallelism import MAX_DEGREE, MAX_GROUP_RANKS, Parallelism

MAX_SECONDS = 7 * 24 * 3600
"""Longest time that a spec may ask for: a week is beyond any load, and a bound keeps typing errors
in milliseconds from passing."""
MAX_REPLICAS = 1024
"""Groups of one model: each is a StatefulSet, and above this a model wants several resources."""
RANKS_HINT = f"tensor x pipeline x expert must be at most {MAX_GROUP_RANKS} ranks"
Degree = Annotated[int, Field(ge=1, le=MAX_DEGREE)]
QUANTITY_PATTERN = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
"""A Kubernetes quantity (``resource.Quantity``): a number with an SI, binary or exponent suffix."""
Quantity = Annotated[
    int | Annotated[str, StringConstraints(max_length=64, pattern=QUANTITY_PATTERN)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
SIZE_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "M": 10**6, "G": 10**9, "T": 10**12}
"""Units of a cache's size: smaller ones would hold no object."""
SIZE_PATTERN = rf"^[1-9][0-9]{{0,5}}({'|'.join(SIZE_UNITS)})$"
PATH_PATTERN = r"^$|^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
"""An absolute path without `.` or `..`, and hence one that a list of allowed paths can judge."""
CACHE_HINT = "use one of claimName and hostPath, or none of them for an emptyDir"


class ParallelismSpec(ApiModel):
    """Into how many ranks the model is cut."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "self.tensor * (has(self.pipeline) ? self.pipeline : 1) * "
                    f"(has(self.expert) ? self.expert : 1) <= {MAX_GROUP_RANKS}",
                    RANKS_HINT,
                )
            ]
        }
    )

    tensor: Degree
    """Degree of tensor parallelism: ranks that share each layer."""
    pipeline: Degree = 1
    """Degree of pipeline parallelism: stages, each of some layers, balanced by bytes."""
    expert: Degree = 1
    """Degree of expert parallelism: ranks that share the experts of each layer."""

    def degrees(self) -> Parallelism:
        """The runtime's value for it."""
        return Parallelism(tensor=self.tensor, pipeline=self.pipeline, expert=self.expert)


class Resources(ApiModel):
    """Compute resources of the rank container, as in a pod."""

    limits: Annotated[dict[str, Quantity], Field(max_length=32)] = {}
    """Most that the container may use. No memory limit is set unless you set one."""
    requests: Annotated[dict[str, Quantity], Field(max_length=32)] = {}
    """What the scheduler reserves. `memory` defaults to the bytes of the pod's shards plus
    overhead."""


class Cache(ApiModel):
    """A folder on the node where verified objects stay, for ranks that start again.

    Without a claim or a path it is an `emptyDir`, which outlives containers but not the pod.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.claimName) || !has(self.hostPath) || self.claimName == '' || "
                    "self.hostPath == ''",
                    CACHE_HINT,
                )
            ]
        }
    )

    size: Annotated[str, StringConstraints(max_length=32, pattern=SIZE_PATTERN)]
    """Most that it holds, such as `200Gi`; what was not used for longest gives way. The pods of a
    node that share a folder should have the same size here."""
    claim_name: ShortText = ""
    """PersistentVolumeClaim of the namespace to keep it in."""
    host_path: Annotated[str, StringConstraints(max_length=MAX_URI, pattern=PATH_PATTERN)] = ""
    """Folder of the node, shared by its pods. It has to be there, writable for user 65532, and
    below a path that the operator was told to allow."""

    @property
    def size_bytes(self) -> int:
        """`size` in bytes."""
        unit = self.size.lstrip("0123456789")
        return int(self.size.removesuffix(unit)) * SIZE_UNITS[unit]


class Workers(ApiModel):
    """The pods that hold the shards."""

    image: LongText = ""
    """Image of the ranks and of the pre-shard Job; empty: the operator's default runtime image."""
    gpus_per_pod: Degree = 1
    """Ranks in one pod, one GPU each. Must divide the number of ranks."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Process group backend. `auto` takes NCCL where CUDA is, else gloo; `gloo` asks for no
    GPU."""
    resources: Resources = Resources()
    """Compute resources of the rank container. `nvidia.com/gpu` is added unless the backend is
    gloo or a GPU resource is named here."""
    cache: Cache | None = None
    """Where ranks of a node keep what they have verified; without it every start reads from the
    storage."""
    exclusive_topology: Annotated[
        str,
        StringConstraints(
            max_length=317,
            pattern=r"^$|^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        ),
    ] = ""
    """Label of nodes, such as `topology.kubernetes.io/rack`: all ranks of a group run where its
    value is the same, and no ranks of other groups or models of the namespace with them."""
    entrypoint: Annotated[
        str,
        StringConstraints(
            max_length=256, pattern=r"^$|^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
        ),
    ] = ""
    """`package.module:function` that each rank calls with its shard; empty: ranks hold the
    weights."""
    template: Annotated[
        dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    ] = {}
    """Overrides of the pod template, `metadata` (labels, annotations) and `spec`, merged
    strategically; the container is called `rank`. Volumes, mounts, environment, image pull secrets
    and placement apply to the pre-shard Job as well."""


class Rollout(ApiModel):
    """How a new revision takes over."""

    strategy: Literal["Surge", "Recreate"] = "Surge"
    """Surge: the new revision comes up beside the old and takes over when all its ranks are ready.
    Recreate: the old goes first, for where GPUs are scarce."""
    progress_deadline_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = 1800
    """A model that comes no nearer to Ready for so long is Stalled: no other spec, layout or
    revision, no more bytes written or loaded, no more ranks. It is tried on, and what serves goes
    on serving."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Finished pre-shard Jobs of former requests that are kept: a revert to one of them finds its
    layout at once. Layouts themselves are never deleted by a change of the spec."""


class Restart(ApiModel):
    """How often a group that cannot form is made anew as a whole.

    A rank that ends is restarted by the kubelet, and its peers keep their weights; this is for
    what that does not heal. A group whose pods wait for a node is never restarted.
    """

    max_restarts: Annotated[int, Field(ge=0, le=100)] = 5
    """Restarts of one group in a window; after them it is Stalled, and its pods are kept."""
    window_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = 3600
    """Length of the window, from its first restart. A group that is ready when it ends starts
    anew; one that used up its restarts stays Stalled until it is ready."""
    base_delay_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = 10
    """Wait before the first restart of a window; doubles with each."""
    max_delay_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = 600
    """Longest wait before a restart."""


DIVIDES = (
    "!has(self.workers) || !has(self.workers.gpusPerPod) || (self.parallelism.tensor"
    " * self.parallelism.pipeline * self.parallelism.expert) % self.workers.gpusPerPod == 0"
)


class ShardedModelSpec(ApiModel):
    """What the model is made of and how it runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    DIVIDES,
                    "workers.gpusPerPod must divide the number of ranks (parallelism.tensor)",
                )
            ]
        }
    )

    source: Source
    """Where the checkpoint is read from."""
    parallelism: ParallelismSpec
    """Into how many ranks it is cut."""
    sharding: Sharding = Sharding()
    """How tensors are cut."""
    storage: Storage
    """Where the shards are kept. Equal requests share them."""
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    """Groups of ranks, each holding the whole model."""
    workers: Workers = Workers()
    """The pods that hold the shards."""
    rollout: Rollout = Rollout()
    """How a new revision takes over."""
    restart: Restart = Restart()
    """How often a group that cannot form is made anew."""
    network_policy: NetworkPolicy | None = None
    """Where it is there, also empty (`{}`), pods may talk to each other, DNS and the stores alone,
    and nothing is started before that holds. Without it no NetworkPolicy is made."""
    suspend: bool = False
    """Stop all rank pods and start no Job, but keep the shards and all objects."""
