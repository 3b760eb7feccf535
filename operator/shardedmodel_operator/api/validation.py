"""The checks that a schema cannot make, and the schema's own for servers that skip some.

CEL rules in the CRD say the same at ``kubectl apply``, but servers before 1.25 ignore them, so
the operator checks again. All problems are collected: people fix a manifest once, not five times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from shardedmodel_operator.api.problem import Problem
from shardedmodel_operator.api.sharding import RULE_FIELDS
from shardedmodel_operator.api.spec import (
    CACHE_HINT,
    RANKS_HINT,
    Cache,
    ShardedModelSpec,
)
from shardedmodel_operator.api.stores import (
    ENDPOINT_HINT,
    URI_HINT,
    known_address,
    known_endpoint,
)
from shardedmodel_operator.api.template import template_problems
from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.parallelism import MAX_GROUP_RANKS

NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
"""DNS-1035 label: the model's Service bears the model's name, and its pods carry it as a label."""
NAME_HINT = "cannot name a Service; use at most 63 of a-z, 0-9 and '-', beginning with a letter"
MAX_SHOWN = 10
"""Problems told in one message; more than that is another file altogether."""


def describe(problems: tuple[Problem, ...]) -> str:
    """All problems in one message."""
    shown = "; ".join(str(problem) for problem in problems[:MAX_SHOWN])
    more = len(problems) - MAX_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def parse_spec(spec: Mapping[str, Any]) -> tuple[ShardedModelSpec | None, list[Problem]]:
    """Parse ``spec`` against the schema, or give every problem with it."""
    try:
        return ShardedModelSpec.model_validate(spec), []
    except ValidationError as error:
        return None, [_schema_problem(dict(detail)) for detail in error.errors()]


def _schema_problem(detail: Mapping[str, Any]) -> Problem:
    path = "spec"
    for part in detail["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    match detail["type"]:
        case "missing":
            return Problem(path, "is required")
        case "extra_forbidden":
            return Problem(path, "is not a field of this release; remove it")
    return Problem(path, f"{_shown(str(detail['input']))} {detail['msg'].replace('Input ', '')}")


def semantic_problems(name: str, spec: ShardedModelSpec) -> list[Problem]:
    """Everything wrong with a spec that has the right shape."""
    return [
        *_name(name),
        *_addresses(spec),
        *_parallelism(spec),
        *_rules(spec),
        *_cache(spec.workers.cache),
        *template_problems(spec.workers),
    ]


def _name(name: str) -> Iterator[Problem]:
    if not re.fullmatch(NAME_PATTERN, name):
        yield Problem("metadata.name", f"{name!r} {NAME_HINT}")


def _addresses(spec: ShardedModelSpec) -> Iterator[Problem]:
    for field, store in (("source", spec.source), ("storage", spec.storage)):
        if not known_address(store.uri):
            yield Problem(f"spec.{field}.uri", f"{_shown(store.uri)} {URI_HINT}")
        if not known_endpoint(store.endpoint_url):
            yield Problem(
                f"spec.{field}.endpointUrl", f"{_shown(store.endpoint_url)} {ENDPOINT_HINT}"
            )


def _shown(address: str) -> str:
    """An address for a message, without the password that somebody put into it."""
    return excerpt(repr(re.sub(r"//[^/]*@", "//…@", address)))


def _parallelism(spec: ShardedModelSpec) -> Iterator[Problem]:
    degrees, per_pod = spec.parallelism, spec.workers.gpus_per_pod
    world = degrees.tensor * degrees.pipeline * degrees.expert
    if world > MAX_GROUP_RANKS:
        yield Problem("spec.parallelism", f"{world} ranks are too many; {RANKS_HINT}")
        return
    if world % per_pod:
        works = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
        yield Problem(
            "spec.workers.gpusPerPod",
            f"{per_pod} does not divide the {world} ranks of spec.parallelism; use one of {works}",
        )


def _cache(cache: Cache | None) -> Iterator[Problem]:
    if cache is not None and cache.claim_name and cache.host_path:
        yield Problem("spec.workers.cache", f"has a claim and a path; {CACHE_HINT}")


def _rules(spec: ShardedModelSpec) -> Iterator[Problem]:
    for index, rule in enumerate(spec.sharding.rules):
        for field, _, strategies, names in RULE_FIELDS:
            value = getattr(rule, field)
            if value != type(rule).model_fields[field].default and rule.strategy not in strategies:
                path = f"spec.sharding.rules[{index}].{field}"
                yield Problem(path, f"{value!r} is for the strategy {names} alone; remove it")
