"""``status``: what the operator reports. A cache of what it observed; losing it must converge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from shardedmodel_operator.api.base import (
    ApiModel,
    Bytes,
    Count,
    LongText,
    Rate,
    Seconds,
    ShortText,
    Time,
)

LISTED_RANKS = 64
"""Ranks that status lists: at some 300 bytes each they stay well below what watchers should carry
at every change; beyond it the slowest and the unready ones are listed."""
MAX_GROUPS = 64
"""Groups that status lists, for the same reason."""
MESSAGE_LIMIT = 2048
"""Characters of a condition's message (Kubernetes allows 32,768; people read one line)."""

Phase = Literal[
    "Pending",
    "Sharding",
    "Starting",
    "Loading",
    "Ready",
    "Updating",
    "Degraded",
    "Suspended",
    "Failed",
]
"""Pending: not begun, or waiting for room; Sharding: the Job cuts the checkpoint; Starting: rank
pods come up; Loading: weights are read; Ready: all ranks hold them; Updating: an older revision
serves while a new one comes; Degraded: serves, but something is broken; Suspended: by request;
Failed: cannot go on without a change."""

CamelCase = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]


class Condition(ApiModel):
    """One condition, as Kubernetes' `metav1.Condition`."""

    type: CamelCase
    """Ready, Available, Sharded, Loaded, GroupFormed; Reconciling and Stalled only when True."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: CamelCase
    """One stable word for why."""
    message: Annotated[str, StringConstraints(max_length=MESSAGE_LIMIT)] = ""
    """The same for people: what, where, and what to do."""
    observed_generation: Annotated[int, Field(ge=-1)] = 0
    """Generation of the spec that this speaks of."""
    last_transition_time: Time
    """When `status` changed last."""


class ShardingStatus(ApiModel):
    """The pre-shard Job and the layout that it made or found."""

    request_hash: Annotated[str, StringConstraints(max_length=64)] = ""
    """Names what the spec asks for."""
    attempt: Count = 0
    """Number of the latest Job."""
    layout_hash: Annotated[str, StringConstraints(max_length=64)] = ""
    """Names the finished layout by its content; empty until there is one."""
    unfinished_layout: Annotated[str, StringConstraints(max_length=64)] = ""
    """Names the layout that a Job began and has not finished."""
    manifest_uri: LongText = ""
    """Address of the layout's manifest."""
    objects: Count = 0
    """Objects of the layout."""
    bytes: Bytes = 0
    """Bytes of all objects of the layout."""
    bytes_done: Bytes = 0
    """Bytes written so far."""
    furthest_bytes: Bytes = 0
    """Most of `bytesDone` that an attempt at this request has come to: less is no progress."""
    bytes_per_second: Rate = 0
    """Mean rate of writing."""
    remaining_seconds: Seconds | None = None
    """Estimate of what is left; absent when unknown or finished."""
    seconds: Seconds = 0
    """What the Job took."""
    source_bytes: Bytes = 0
    """Bytes of the checkpoint's tensors."""
    source_bytes_read: Bytes = 0
    """Bytes read from the source; 0 when the finished layout was found."""
    max_rank_bytes: Bytes = 0
    """Bytes that the largest rank loads."""
    peak_memory_bytes: Bytes = 0
    """Peak memory of the Job's process."""
    reused: bool = False
    """Whether the layout was there already."""
    unmatched_tensors: Count = 0
    """Tensors that no rule matched, hence whole on every rank."""
    unmatched_bytes: Bytes = 0
    """Bytes of those tensors."""
    pods_missing_since: Time | None = None
    """When pods of the Job were first missed; absent while all of them exist."""


class LoadStatus(ApiModel):
    """How the ranks loaded."""

    ranks_loaded: Annotated[str, StringConstraints(max_length=32)] = ""
    """Ranks that hold their verified weights, of all: `4/4`."""
    bytes: Bytes = 0
    """Bytes of all ranks' shards."""
    max_seconds: Seconds = 0
    """Load of the slowest rank."""
    p50_seconds: Seconds = 0
    """Median over ranks."""
    skew_seconds: Seconds = 0
    """By how much the load of the slowest rank took longer than that of the fastest."""
    aggregate_bytes_per_second: Rate = 0
    """Bytes of all ranks by the seconds of the slowest."""
    duration: Annotated[str, StringConstraints(max_length=32)] = ""
    """`maxSeconds` for people: `3.2s`."""
    throughput: Annotated[str, StringConstraints(max_length=32)] = ""
    """`aggregateBytesPerSecond` in GB/s: `1.25`."""
    slowest_rank: Annotated[str, StringConstraints(max_length=320)] = ""
    """The slowest rank and its pod: `3@llama-0a1b2c3d-0-3`."""
    join_seconds: Seconds = 0
    """Forming of the slowest group."""
    memory_efficiency: Seconds = 0
    """Bytes of the shards by peak memory of the ranks: near 1 is best."""


class GroupStatus(ApiModel):
    """One replica group."""

    index: Count
    """Number of the group, from 0."""
    revision: Annotated[str, StringConstraints(max_length=64)]
    """Revision that its pods run."""
    incarnation: Count = 0
    """How often the group formed anew."""
    restarts: Count = 0
    """Restarts of the group as a whole in the present window, a scheduled one included."""
    restarts_since: Time | None = None
    """When that window began."""
    restart_at: Time | None = None
    """When the next restart is due; absent while none is scheduled."""
    restart_of: Annotated[str, StringConstraints(max_length=64)] = ""
    """UID of the StatefulSet that is made anew then."""
    unready_since: Time | None = None
    """Since when all its pods have begun to run without the group being ready."""
    container_restarts: Count = 0
    """Restarts of its containers by the kubelet."""
    ready_ranks: Count = 0
    """Ranks that are ready."""
    ranks: Count = 0
    """Ranks of the group."""
    pods_missing_since: Time | None = None
    """When pods of the group were first missed; absent while all of them exist."""


class RankStatus(ApiModel):
    """One rank."""

    id: Count
    """Number of the rank in its group."""
    group: Count = 0
    """Number of its group."""
    pod: ShortText = ""
    """Its pod."""
    node: ShortText = ""
    """Its node."""
    state: Annotated[str, StringConstraints(max_length=16)] = "pending"
    """pending, starting, joining, loading, loaded, ready, failed or lost."""
    bytes: Bytes = 0
    """Bytes of its shard."""
    bytes_done: Bytes = 0
    """Bytes read and verified."""
    bytes_read: Bytes = 0
    """Bytes fetched, repeats included: equal to `bytes` unless something was read again."""
    seconds: Seconds = 0
    """What its load took."""
    bytes_per_second: Rate = 0
    """Mean rate of its load."""
    device: Annotated[str, StringConstraints(max_length=64)] = ""
    """Device that holds the weights."""
    message: Annotated[str, StringConstraints(max_length=256)] = ""
    """What is wrong with it, if anything."""


class ShardedModelStatus(ApiModel):
    """What the operator observed. Written on a change of state, or every 10 s while bytes move."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    phase: Phase | None = None
    """One word for people; tools read `conditions`."""
    current_revision: Annotated[str, StringConstraints(max_length=64)] = ""
    """Revision that the model's Service sends to."""
    update_revision: Annotated[str, StringConstraints(max_length=64)] = ""
    """Revision that the spec asks for; empty until its layout is known."""
    sharding: ShardingStatus | None = None
    """The pre-shard Job and its layout."""
    replicas: Count = 0
    """Groups that exist."""
    ready_replicas: Count = 0
    """Groups whose ranks are all ready."""
    progress_at: Time | None = None
    """When it last came nearer to Ready; absent when it is Ready or suspended."""
    selector: LongText = ""
    """Label selector of the rank pods, for the scale subresource."""
    load: LoadStatus | None = None
    """How the ranks loaded."""
    groups: Annotated[list[GroupStatus], Field(max_length=MAX_GROUPS)] = []
    """The replica groups."""
    ranks: Annotated[list[RankStatus], Field(max_length=LISTED_RANKS)] = []
    """The ranks; of more than 64 the unready and the slowest."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = []
    """Ready, Available, Sharded, Loaded, GroupFormed; Reconciling or Stalled when True."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if present."""
        return next((c for c in self.conditions if c.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether the condition of this type is True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"
