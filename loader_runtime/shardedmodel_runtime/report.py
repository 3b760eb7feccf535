"""What Job and rank pods tell the operator: the schema of reports and termination messages.

The operator pulls reports over HTTP (``REPORT_PATH``) and reads termination messages from the
pods' statuses; both sides validate against these models, so neither has to trust the other.
Field names are camelCase on the wire, as in the resource's status. Pods may run a newer release
than the operator that asks them: writers may add fields, and who reads with ``Told.read`` ignores
those that it does not know.
"""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from shardedmodel_runtime.errors import ShardedModelError
from shardedmodel_runtime.parallelism import MAX_GROUP_RANKS

logger = logging.getLogger(__name__)

HTTP_PORT = 8080
"""Port of ``/healthz``, ``/readyz``, ``/metrics`` and ``/report`` in Job and rank pods."""
REPORT_PATH = "/report"
MASTER_PORT = 29500
"""Port of the group's TCPStore on rank 0: torch's own default."""

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that the kubelet keeps of a termination message (Kubernetes API, Container)."""
MESSAGE_LIMIT = 1024
"""Characters of one human-readable message, which a termination message mostly has room for."""
REPORT_BYTES_LIMIT = 4 * 1024 * 1024
"""Largest report that the operator reads: 1,024 ranks at some 400 bytes, tenfold."""

Message = Annotated[str, StringConstraints(max_length=MESSAGE_LIMIT)]

RankState = Literal["starting", "joining", "loading", "loaded", "ready", "failed", "lost"]
"""starting: process is up; joining: waiting for the group's store; loading: bytes move;
loaded: weights verified, group not yet formed; ready: weights held and group formed;
failed: gave up, see message; lost: the group misses it."""


class Wire(BaseModel):
    """Base of all that crosses the wire: camelCase, immutable, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    def to_json(self) -> str:
        """Serialise with the names used on the wire."""
        return self.model_dump_json(by_alias=True)


class Told(Wire):
    """Base of what pods tell the operator."""

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Validate what a pod of another release may have written; unknown fields are ignored.

        Raises:
            pydantic.ValidationError: a field that is known is missing or out of its range.
        """
        return cls.model_validate_json(text, extra="ignore")


class Termination(Told):
    """Base of what a container leaves for the kubelet when it ends."""

    def leave_in(self, log: Path | None) -> None:
        """Write to the termination log, of which the kubelet keeps 4 KiB; None: nowhere.

        A log that cannot be written is told in the program's own log: the process ends with its
        own exit code all the same.
        """
        if log is None:
            return
        try:
            log.write_bytes(self.fitted().to_json().encode())
        except OSError as error:
            logger.error("cannot leave a termination message in %s: %s", log, error)

    def fitted(self) -> Self:
        """Give it in a form that the kubelet keeps whole: half a JSON text says nothing."""
        return self

    @property
    def _excess(self) -> int:
        """Bytes of the JSON text beyond what the kubelet keeps; at most 0 when it fits."""
        return len(self.to_json().encode()) - TERMINATION_MESSAGE_LIMIT


class Failure(Termination):
    """Why a process gave up: the termination message of a Job or rank container."""

    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
    message: Message
    retryable: bool = False

    def fitted(self) -> Self:
        """Shorten the message: a character takes up to six bytes of JSON."""
        fitting = self
        while fitting._excess > 0:
            kept = len(fitting.message) - max(1, fitting._excess // 6) - 1
            fitting = fitting.model_copy(update={"message": f"{fitting.message[:kept]}…"})
        return fitting

    @classmethod
    def of(cls, error: ShardedModelError) -> Self:
        """Describe one of our errors."""
        return cls(
            reason=error.reason,
            message=error.message[:MESSAGE_LIMIT],
            retryable=error.retryable,
        )


class ShardProgress(Told):
    """How far the pre-shard Job is; its ``/report`` while it runs."""

    kind: Literal["ShardProgress"] = "ShardProgress"
    layout_hash: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{8,64})?$")] = Field(
        default="", description="of the layout that is being written; empty before"
    )
    objects: int = Field(ge=0)
    bytes: int = Field(ge=0, description="bytes of all objects of the layout")
    bytes_done: int = Field(ge=0, description="bytes written so far")
    bytes_per_second: float = Field(ge=0)
    remaining_seconds: float | None = Field(default=None, ge=0)
    seconds: float = Field(ge=0, description="since the Job's process started")


class ReplicatedSummary(Wire):
    """What no rule matched and hence is replicated on every rank."""

    tensors: int = Field(ge=0)
    bytes: int = Field(ge=0)
    examples: list[str] = Field(default_factory=list, max_length=5)


class ShardSummary(Termination):
    """What the pre-shard Job made or found: its termination message on success (≤ 4 KiB)."""

    kind: Literal["ShardSummary"] = "ShardSummary"
    layout_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    manifest_uri: Annotated[str, StringConstraints(max_length=1024)]
    objects: int = Field(ge=0)
    bytes: int = Field(ge=0, description="bytes of all objects of the layout")
    source_bytes: int = Field(ge=0, description="bytes of the checkpoint's tensors")
    source_bytes_read: int = Field(ge=0, description="0 when the finished layout was found")
    max_rank_bytes: int = Field(ge=0, description="bytes that the largest rank loads")
    seconds: float = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0)
    reused: bool = False
    complete: bool = Field(
        default=True, description="false: other workers have not finished; there is no manifest yet"
    )
    worker: int = Field(default=0, ge=0, description="which of the workers that share the work")
    unmatched: ReplicatedSummary = ReplicatedSummary(tensors=0, bytes=0)

    def fitted(self) -> Self:
        """Leave out examples, whose names are the checkpoint's own and may be long."""
        fitting = self
        while fitting._excess > 0 and fitting.unmatched.examples:
            fewer = fitting.unmatched.model_copy(
                update={"examples": fitting.unmatched.examples[:-1]}
            )
            fitting = fitting.model_copy(update={"unmatched": fewer})
        return fitting


CACHE_TROUBLE = "cache: "
"""How the message of a rank begins that loads without the node's cache; it is well otherwise."""


class RankReport(Wire):
    """One rank's load, as it stands now."""

    rank: int = Field(ge=0)
    pod: Annotated[str, StringConstraints(max_length=253)] = ""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    state: RankState = "starting"
    device: Annotated[str, StringConstraints(max_length=64)] = ""
    bytes: int = Field(default=0, ge=0, description="bytes of the rank's objects")
    bytes_done: int = Field(default=0, ge=0, description="bytes read and verified so far")
    bytes_read: int = Field(default=0, ge=0, description="bytes fetched, repeats included")
    seconds: float = Field(default=0.0, ge=0, description="of the load: read, verify, copy")
    phase_seconds: dict[str, float] = Field(
        default_factory=dict, max_length=16, description="metadata, join, read, verify, …"
    )
    loaded_at: float | None = Field(
        default=None, ge=0, description="Unix time at which its weights were verified"
    )
    retries: int = Field(default=0, ge=0)
    throttled: int = Field(default=0, ge=0, description="answers that asked for fewer requests")
    hedges: int = Field(default=0, ge=0, description="second requests for slow ranges")
    cache_hits: int = Field(default=0, ge=0, description="objects from the node's cache")
    cache_bytes: int = Field(default=0, ge=0, description="their bytes")
    concurrency: int = Field(default=0, ge=0, description="most reads in flight at once")
    peak_memory_bytes: int = Field(default=0, ge=0)
    message: Message = ""

    @property
    def bytes_per_second(self) -> float:
        """Mean rate of the load; 0 before it took any time."""
        return self.bytes_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def read_amplification(self) -> float:
        """Bytes fetched from the store for each byte of the rank's objects."""
        return self.bytes_read / self.bytes if self.bytes else 0.0

    @property
    def memory_ratio(self) -> float:
        """Peak memory of the process for each byte of the rank's objects; torch's own included."""
        return self.peak_memory_bytes / self.bytes if self.bytes else 0.0


class GroupReport(Told):
    """All ranks of one group as rank 0 knows them: the ``/report`` of rank 0's pod.

    The pod of other ranks serves the same schema with its own ranks only and ``complete`` false.
    """

    kind: Literal["GroupReport"] = "GroupReport"
    layout_hash: Annotated[str, StringConstraints(max_length=64)]
    world_size: int = Field(ge=1)
    incarnation: int = Field(default=0, ge=0)
    formed: bool = False
    complete: bool = False
    backend: Annotated[str, StringConstraints(max_length=16)] = ""
    join_seconds: float | None = Field(default=None, ge=0)
    ranks: list[RankReport] = Field(default_factory=list, max_length=MAX_GROUP_RANKS)

    @property
    def load_skew(self) -> float | None:
        """Seconds of the slowest rank's load by those of the median rank; None before any."""
        seconds = [rank.seconds for rank in self.ranks if rank.loaded_at is not None]
        middle = median(seconds) if seconds else 0.0
        return max(seconds) / middle if middle else None
