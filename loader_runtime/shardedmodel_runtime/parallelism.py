"""How many ranks a model is cut for, and where one rank stands among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.errors import ConfigurationError

MAX_DEGREE = 1024
"""Largest degree of one kind of parallelism: well above any published deployment, and small
enough that a typing error cannot make a plan of millions of ranks."""

MAX_RANKS = 4096
"""Most ranks that a layout is cut for: several times the largest published inference deployments.
Plans and manifests are checked for every rank, so their number bounds the time of a check."""

MAX_GROUP_RANKS = 1024
"""Most ranks that load as one group: all of them beat in one store, and rank 0's report lists
each."""


@dataclass(frozen=True, slots=True)
class RankCoordinate:
    """One rank's place: zero-based along each kind of parallelism."""

    rank: int
    tensor: int
    pipeline: int = 0
    expert: int = 0


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of tensor, pipeline and expert parallelism.

    Ranks are numbered with tensor fastest, then expert, then pipeline, as Megatron orders them
    (``tp-ep-pp``), so that the ranks of a tensor group are neighbours on a node.

    Raises:
        ConfigurationError: a degree is below 1 or above ``MAX_DEGREE``, or their product above
            ``MAX_RANKS``.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "expert"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_DEGREE:
                raise ConfigurationError(
                    f"parallelism.{name}: {value} is not between 1 and {MAX_DEGREE}"
                )
        if self.world_size > MAX_RANKS:
            raise ConfigurationError(
                f"parallelism: tensor {self.tensor} x pipeline {self.pipeline} x expert "
                f"{self.expert} are {self.world_size} ranks, more than {MAX_RANKS}"
            )

    @property
    def world_size(self) -> int:
        """Number of ranks in one group."""
        return self.tensor * self.pipeline * self.expert

    def coordinate(self, rank: int) -> RankCoordinate:
        """Give the place of ``rank``.

        Raises:
            ConfigurationError: ``rank`` is not in ``[0, world_size)``.
        """
        if not 0 <= rank < self.world_size:
            raise ConfigurationError(f"rank: {rank} is not in [0, {self.world_size})")
        outer, tensor = divmod(rank, self.tensor)
        pipeline, expert = divmod(outer, self.expert)
        return RankCoordinate(rank=rank, tensor=tensor, pipeline=pipeline, expert=expert)

    def coordinates(self) -> Iterator[RankCoordinate]:
        """Every rank's place, in the order of ranks."""
        return (self.coordinate(rank) for rank in range(self.world_size))

    def ranks_at(
        self,
        tensor: int | None = None,
        stages: Sequence[int] | None = None,
        expert: int | None = None,
    ) -> tuple[int, ...]:
        """The ranks with these coordinates, ascending; None: any.

        Args:
            tensor: the tensor rank.
            stages: the pipeline stages.
            expert: the expert rank.
        """
        return tuple(
            (stage * self.expert + among_experts) * self.tensor + among_tensors
            for stage in (range(self.pipeline) if stages is None else stages)
            for among_experts in (range(self.expert) if expert is None else (expert,))
            for among_tensors in (range(self.tensor) if tensor is None else (tensor,))
        )

    def as_dict(self) -> dict[str, int]:
        """The degrees by name, as they stand in manifests and hashes."""
        return {"tensor": self.tensor, "pipeline": self.pipeline, "expert": self.expert}
