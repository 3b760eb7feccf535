"""What ``transformers`` knows of tensor parallelism, read from ``transformers.json``.

The file is generated (``python -m tools.architectures``) and needs no transformers to be read:

- ``transformers``: the version that it was made with.
- ``plans``: by name, ``plan`` (module or parameter, with ``*`` for numbers, and transformers' style
  for it), ``disk`` (the same for tensors whose name on disk differs from that in memory) and
  ``whole`` (tensors without a style).
- ``types``: for each ``model_type`` the name of its plan; equal plans are written once.
- ``composites``: models that hold another model beside towers for images or sound: ``text`` is the
  type of the model inside, ``plan`` what the outer one adds, ``whole`` the towers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from shardedmodel_runtime.sharding.architectures.globs import WHOLE, whole
from shardedmodel_runtime.sharding.architectures.styles import EXPERTS, HOOKS, rules_of
from shardedmodel_runtime.sharding.rules import Rule

DATA = "transformers.json"


@cache
def carried() -> Mapping[str, Any]:
    """The data file."""
    text = resources.files(__package__).joinpath(DATA).read_text(encoding="utf-8")
    document: Mapping[str, Any] = json.loads(text)
    return document


def carried_types() -> tuple[str, ...]:
    """Every ``model_type`` that the data file has rules for."""
    return (*carried()["types"], *carried()["composites"])


def carried_rules(model_type: str) -> tuple[Rule, ...]:
    """The rules of a type.

    Raises:
        KeyError: the data file does not have it.
    """
    document = carried()

    def plan_of(text: str) -> Mapping[str, Any]:
        plan: Mapping[str, Any] = document["plans"][document["types"][text]]
        return plan

    composite = document["composites"].get(model_type)
    if composite is None:
        return rules_in(plan_of(model_type))
    return rules_in(composite, plan_of(composite["text"]))


def rules_in(plan: Mapping[str, Any], inner: Mapping[str, Any] | None = None) -> tuple[Rule, ...]:
    """The rules of one entry of ``plans``, or of ``composites`` around the plan ``inner``."""
    styled = (*styled_rules(plan["disk"]), *styled_rules(plan["plan"]))
    parts = whole(*plan["whole"])
    if inner is None:
        return (*styled, *parts, *whole(*WHOLE))
    # Layers of an image tower can be named as those of the language model are.
    return (*parts, *styled, *rules_in(inner))


def styled_rules(styles: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules of names and their styles; routed experts are known by the hook above them."""
    experts = [f"{name}." for name, style in styles.items() if style == "moe_tp_experts"]
    return tuple(
        rule
        for name, style in styles.items()
        for rule in rules_of(name, _with_experts(name, style, experts))
    )


def _with_experts(name: str, style: str, experts: list[str]) -> str:
    is_expert = style not in HOOKS and name.startswith(tuple(experts))
    return EXPERTS + style if is_expert else style
