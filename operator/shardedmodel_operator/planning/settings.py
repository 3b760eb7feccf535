"""What the planner is told about its surroundings; each default carries its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Settings of the planner. ``runtime_image`` has no default that could be right."""

    runtime_image: str
    """Image of Job and rank pods when ``spec.workers.image`` is empty."""
    image_pull_policy: str = "IfNotPresent"
    """Images are immutable by convention, and nodes of closed networks cannot pull at all."""
    cache_host_paths: tuple[str, ...] = ()
    """Paths of nodes that caches may lie in or below: none, since what a pod may do to its node is
    the admin's to say."""
    disruption_budgets: bool = True
    """Whether models get a PodDisruptionBudget: where the server has ``policy/v1`` and nobody
    switched them off."""
    job_requests: Mapping[str, str] = field(
        default_factory=lambda: {"cpu": "100m", "memory": "256Mi"}
    )
    """Small, so that the Job fits beside anything."""
    job_limits: Mapping[str, str] = field(default_factory=lambda: {"memory": "1Gi"})
    """Twice the pre-sharder's stated bound, which is near at 64 ranks, whatever the model's size.
    No CPU limit: it would only slow the hashing that bounds it."""
    rank_cpu_request: str = "100m"
    """Reserved for each rank pod: small, since a load uses what it finds, and an idle rank
    nothing."""
    rank_overhead_bytes: int = 512 * 1024 * 1024
    """Memory of one rank besides its shard: the interpreter and torch take some 300 MiB."""
    shm_bytes: int = 1024 * 1024 * 1024
    """Size limit of ``/dev/shm`` per rank: NCCL wants some hundred MB for intra-node rings; the
    runtime's default of 64 MB breaks it. Memory is taken only as it is used."""
    floor_bytes_per_second: int = 50_000_000
    """Slowest read that a rank is waited for: half of a gigabit link."""
    start_seconds: int = 120
    """Time a container has to answer at all, before the bytes it loads are counted."""
    poll_seconds: float = 2.0
    """How often reports are pulled while bytes move."""
    backoff_seconds: float = 10.0
    """Wait before the second pre-shard attempt; doubles with each failure."""
    backoff_max_seconds: float = 300.0
    """Longest wait between attempts: a fixed Secret heals within it."""
    cleanup_seconds: int = 600
    """Most that the deletion of a layout may keep a model from going: thousands of objects take
    seconds, and nobody waits longer for a namespace to go."""
    missing_pods_seconds: float = 30.0
    """How long a controller may take to create pods before it is called stuck: quotas and admission
    controllers refuse pods where only Events tell."""
