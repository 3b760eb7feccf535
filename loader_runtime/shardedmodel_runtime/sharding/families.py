"""Built-in rules for families of architectures, by ``model_type``.

Most come from the plans that ``transformers`` carries, some are written by hand; either way the
first rule that matches a tensor's full name decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from shardedmodel_runtime.sharding.architectures.carried import carried_rules, carried_types
from shardedmodel_runtime.sharding.architectures.decoders import DECODERS
from shardedmodel_runtime.sharding.architectures.encoders import ENCODERS
from shardedmodel_runtime.sharding.architectures.globs import WHOLE, whole
from shardedmodel_runtime.sharding.architectures.supplements import AROUND, SUPPLEMENTS
from shardedmodel_runtime.sharding.rules import Rule

_BY_HAND = {**DECODERS, **ENCODERS}


class _Families(Mapping[str, tuple[Rule, ...]]):
    """Rules by ``model_type``, made when they are first asked for."""

    def __getitem__(self, model_type: str) -> tuple[Rule, ...]:
        if model_type in _BY_HAND:
            return (*_BY_HAND[model_type], *whole(*WHOLE))
        if model_type in AROUND:
            inside, outer = AROUND[model_type]
            return (*outer, *self[inside])
        return (*SUPPLEMENTS.get(model_type, ()), *carried_rules(model_type))

    def __iter__(self) -> Iterator[str]:
        return iter(_types())

    def __len__(self) -> int:
        return len(_types())

    def __contains__(self, model_type: object) -> bool:
        return model_type in _types()


@cache
def _types() -> Mapping[str, None]:
    return dict.fromkeys(sorted({*_BY_HAND, *AROUND, *carried_types()}))


FAMILIES: Mapping[str, tuple[Rule, ...]] = _Families()
"""Rules by ``model_type``."""
