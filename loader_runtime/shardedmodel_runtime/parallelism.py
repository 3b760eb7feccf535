"""How many ranks a model is cut for, and where one rank stands among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shardedmodel_runtime.errors import ConfigurationError

MAX_DEGREE = 1024
"""Largest degree of one kind of parallelism: well above any published deployment, and small
enough that a typing error cannot make a plan of millions of ranks."""


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
        ConfigurationError: a degree is below 1 or above ``MAX_DEGREE``.
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

    def as_dict(self) -> dict[str, int]:
        """The degrees by name, as they stand in manifests and hashes."""
        return {"tensor": self.tensor, "pipeline": self.pipeline, "expert": self.expert}
