"""``spec.sharding``: how tensors are cut, as the runtime's rules say it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from shardedmodel_operator.api.base import INT32_MAX, ApiModel, cel

MAX_RULES = 256
"""Rules of one model: families have some twenty; the bound keeps Job arguments and CEL small."""
MAX_SHARD_WORKERS = 64
"""Pods that share a pre-shard Job: a store's bandwidth is used up by fewer."""
Strategy = Literal["column", "row", "heads", "vocab", "packed", "experts", "replicate"]
"""The runtime's strategies (``sharding.distributor``), of which a test holds this a copy."""
Part = Annotated[
    Annotated[int, Field(ge=1, le=INT32_MAX)]
    | Annotated[str, StringConstraints(max_length=8, pattern=r"^(query|key|value|group)$")],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""One of the tensors that are packed into one: attention heads by name, or a relative size."""
RULE_FIELDS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("parts", "size(self.parts) == 0", ("packed", "heads", "experts"), "packed, heads or experts"),
    ("inner", "self.inner == ''", ("experts",), "experts"),
    ("multiple", "self.multiple == 64", ("vocab",), "vocab"),
)
"""Fields of a rule that mean something to some strategies alone: what leaves them at their default
in CEL, the strategies, and their names for people."""


class ShardingRule(ApiModel):
    """How the tensors that a pattern matches are cut."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.{field}) || {unset} || self.strategy in {list(strategies)}",
                    f"{field} is for the strategy {names} alone",
                )
                for field, unset, strategies, names in RULE_FIELDS
            ]
        }
    )

    match: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Shell-style pattern of tensor names, such as `*.q_proj.weight`."""
    strategy: Strategy
    """How a matching tensor is cut. column: output features (dimension 0, a bias with them); row:
    input features (the last dimension, a bias stays whole); heads: as column, whole attention heads
    to a rank; vocab: dimension 0, padded to fit; packed: several tensors in one, each cut by
    itself; experts: whole experts to an expert rank; replicate: whole on every rank."""
    transposed: bool = False
    """Whether the weight lies as (input, output), as GPT-2's does: column cuts its last dimension,
    row the one before it."""
    parts: Annotated[list[Part], Field(max_length=16)] = []
    """Of packed: the tensors that lie one after the other, `query`, `key`, `value` and `group`
    (attention heads) or whole numbers (relative sizes). Empty: two equal halves."""
    inner: Literal["", "column", "row", "packed", "replicate"] = ""
    """Of experts: how each expert is cut over the tensor ranks; empty: not at all."""
    uneven: Literal["refuse", "chunk"] = "refuse"
    """What becomes of a dimension that the ranks do not divide: refuse it, or cut it as
    `torch.chunk` does, the last ranks getting less."""
    multiple: Annotated[int, Field(ge=1, le=65536)] = 64
    """Of vocab: the padded size is a multiple of it."""

    def to_rule(self) -> dict[str, Any]:
        """The rule as the runtime takes it, fields at their default left out.

        So a release that adds a field names the same requests as before.
        """
        required = {"match": self.match, "strategy": self.strategy}
        return required | self.model_dump(mode="json", exclude_defaults=True)


class Sharding(ApiModel):
    """How tensors are cut; needed only where the built-in plan is not right."""

    rules: Annotated[list[ShardingRule], Field(max_length=MAX_RULES)] = []
    """Rules that go before the built-in ones; the first that matches a tensor wins."""
    dtype: Literal["keep", "bfloat16", "float16", "float32"] = "keep"
    """Element type of the shards: `keep` leaves each tensor's own; the others cast floating point
    weights on the way."""
    allow_unmatched: bool = False
    """Cut a checkpoint also when no rule matches more than half of its bytes, which are then whole
    on every rank."""
    workers: Annotated[int, Field(ge=1, le=MAX_SHARD_WORKERS)] = 1
    """Pods of the pre-shard Job that share the work; above 1 it is an Indexed Job (Kubernetes 1.24
    and later)."""
