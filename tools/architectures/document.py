"""The data file: plans of transformers, checked name by name against their models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import translate
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from shardedmodel_runtime.sharding.architectures.carried import rules_in
from shardedmodel_runtime.sharding.architectures.styles import EXPERTS, HOOKS, rules_of
from shardedmodel_runtime.sharding.rules import Rule
from tools.architectures.checkpoint_names import Conversion, conversions
from tools.architectures.instances import config_classes, inner_type, instance

Plan = dict[str, Any]

_WHOLE = Rule("*", "replicate")

_SPLIT = {"packed_colwise": "colwise", "colwise": "colwise", "rowwise": "rowwise"}
_CONVERTED: tuple[tuple[set[str], Mapping[str, str]], ...] = (
    # One tensor per expert, or per half, where memory has them in one.
    ({"Chunk", "SplitModulelist", "Interleave"}, _SPLIT),
    ({"ErnieSplitAndDecoupleTextVisionExperts"}, _SPLIT),
    # Several projections in one tensor: what they are follows from its name.
    ({"Concatenate"}, {"colwise": "colwise"}),
    ({"Concatenate", "Interleave"}, {"colwise": "replicate", "rowwise": "replicate"}),
    ({"Transpose"}, {"packed_colwise": "packed_rowwise", "rowwise": "colwise"}),
)
"""What a conversion from memory to disk makes of a style."""

EMBEDDING, HEAD = "embed_tokens", "lm_head"
"""What transformers splits beside the plan of a configuration."""


_NOT_ROWS = "embed_tokens.eoi_embedding"
"""A vector beside the rows of an embedding, which transformers splits with them; it is one row."""


_LAST_WORD = "weight"
"""A name on disk that is the last word of all others: a glob must not begin before it."""


class Unclear(Exception):
    """A model that the data file cannot describe yet; somebody has to look at it."""


def document() -> dict[str, Any]:
    """All that the data file says.

    Raises:
        Unclear: a style, a conversion or a name that nobody has said yet how to treat.
    """
    plans: dict[str, Plan] = {}
    types: dict[str, str] = {}
    around: dict[str, str] = {}
    for model_type, config in config_classes():
        if inside := inner_type(config):
            around[model_type] = inside
        elif base := getattr(config, "base_model_tp_plan", None):
            plan = _plan(model_type, base)
            same = (name for name, known in plans.items() if known == plan)
            types[model_type] = next(same, model_type)
            plans.setdefault(types[model_type], plan)
    return {
        "transformers": transformers.__version__,
        "types": types,
        "composites": {
            model_type: _composite(model_type, inside, plans[types[inside]])
            for model_type, inside in around.items()
        },
        "plans": plans,
    }


def _plan(model_type: str, base: Mapping[str, str]) -> Plan:
    model = instance(model_type)
    if model is None:
        styles = {EMBEDDING: "embedding_rowwise", **base, HEAD: "colwise_gather_output"}
        return {"plan": styles, "disk": {}, "whole": []}
    prefix = f"{model.base_model_prefix}."
    styles = {name.removeprefix(prefix): style for name, style in model.tp_plan.items()}
    _split_head(model, styles)
    plan: Plan = {"plan": styles, "disk": {}, "whole": []}
    tensors = _tensors(model_type, model, model.tp_plan | styles, prefix)
    plan["whole"] = _unplanned_parts(tensors)
    _describe(plan, model_type, tensors)
    return plan


def _composite(model_type: str, inside: str, inner: Plan) -> Plan:
    """What a composite model adds to the rules of the model inside, and what stays whole."""
    plan: Plan = {"text": inside, "plan": {}, "disk": {}, "whole": []}
    model = instance(model_type)
    if model is None:
        return plan
    places = _places_of(model, inside)
    prefix = f"{model.base_model_prefix}."
    own = {**(model.config.base_model_tp_plan or {}), **(type(model)._tp_plan or {})}
    plan["plan"] = {name.removeprefix(prefix): style for name, style in own.items()}
    within = tuple(f"{place}." for place in places)
    styles = {name: style for name, style in model.tp_plan.items() if name.startswith(within)}
    styles |= own | {prefix + name: style for name, style in own.items()}
    for name, module in _beside(model, places):
        if name.rpartition(".")[2] == HEAD and isinstance(module, nn.Linear):
            styles[name] = plan["plan"][HEAD] = "colwise_gather_output"
        elif not any(planned.startswith(name) for planned in styles):
            plan["whole"].append(_part(name, styles))
    _describe(plan, model_type, _tensors(model_type, model, styles, prefix), inner)
    return plan


def _part(name: str, styles: Iterable[str]) -> str:
    """A glob of all of a module, whatever is before its name where nothing planned ends so."""
    last = name.rpartition(".")[2]
    return f"{name}.*" if any(planned.endswith(last) for planned in styles) else f"*{last}.*"


def _places_of(model: PreTrainedModel, inside: str) -> list[str]:
    """The names of the modules of a composite model that are its language model, or several."""
    places = [
        str(name)
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel)
        and module.base_model is module
        and module.config.model_type == inside
    ]
    if not places:
        raise Unclear(f"{type(model).__name__}: no {inside} in it")
    return places


def _beside(model: nn.Module, places: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """The modules beside the language models, and beside those around them."""
    around = {""} | {
        place.rsplit(".", depth)[0] for place in places for depth in range(place.count(".") + 1)
    }
    return [
        (full, module)
        for outer in sorted(around - set(places))
        for name, module in model.get_submodule(outer).named_children()
        if (full := f"{outer}.{name}".lstrip(".")) not in around
    ]


def _split_head(model: PreTrainedModel, styles: dict[str, str]) -> None:
    """Split an output head that transformers leaves whole: any vocabulary can be."""
    if isinstance(getattr(model, HEAD, None), nn.Linear):
        styles.setdefault(HEAD, "colwise_gather_output")


def _tensors(
    model_type: str, model: PreTrainedModel, styles: Mapping[str, str], prefix: str
) -> dict[str, str]:
    """The style of every tensor on disk, by its name without the model's prefix."""
    return {
        _relative(tensor, prefix): style
        for conversion in conversions(model)
        for tensor, style in zip(
            conversion.tensors, _styles(model_type, conversion, styles), strict=True
        )
    }


def _unplanned_parts(tensors: Mapping[str, str]) -> list[str]:
    """Globs of the parts of a model, such as its image tower, of which no tensor has a style."""
    parts: dict[str, list[str]] = {}
    for name, style in tensors.items():
        parts.setdefault(name.partition(".")[0], []).append(style)
    return [f"*{part}.*" for part, styles in parts.items() if len(styles) > 4 and not any(styles)]


def _styles(model_type: str, conversion: Conversion, plan: Mapping[str, str]) -> list[str]:
    """The style of each tensor on disk; empty where it has none."""
    found = {_style(name, plan) for name in conversion.parameters}
    if len(found) > 1:
        raise Unclear(f"{model_type}: {conversion} is made of parameters of styles {found}")
    style = found.pop()
    bare = style.removeprefix(EXPERTS)
    operations = set(conversion.operations)
    if not style or not operations:
        return [style] * len(conversion.tensors)
    for known, styles in _CONVERTED:
        if operations <= known and bare in styles:
            return [style.replace(bare, styles[bare])] * len(conversion.tensors)
    raise Unclear(f"{model_type}: no style is known for {conversion}")


def _style(name: str, plan: Mapping[str, str]) -> str:
    if name.endswith(_NOT_ROWS):
        return ""
    style = plan.get(name) or plan.get(name.rpartition(".")[0]) or ""
    if style in HOOKS:
        return ""
    above = name
    while above:
        above = above.rpartition(".")[0]
        if style and plan.get(above) == "moe_tp_experts":
            return EXPERTS + style
    return style


def _describe(
    plan: Plan, model_type: str, tensors: Mapping[str, str], inner: Plan | None = None
) -> None:
    """Add to a plan what its rules do not say yet of a model's tensors on disk.

    Raises:
        Unclear: rules of different tensors contradict each other.
    """
    wanted = {
        name: _first(_compiled(rules_of(name, style)), name)
        for name, style in tensors.items()
        if style
    }
    rules = _compiled(rules_in(plan, inner))
    for name, style in tensors.items():
        found = _first(rules, name)
        if not style and _cut(found) != _cut(_WHOLE):
            plan["whole"].append(name if name == _LAST_WORD else f"*{name}")
        elif style and _cut(found) != _cut(wanted[name]):
            plan["disk"][name] = style
    rules = _compiled(rules_in(plan, inner))
    for name in tensors:
        found, should_be = _first(rules, name), wanted.get(name, _WHOLE)
        if _cut(found) != _cut(should_be):
            raise Unclear(f"{model_type}: {name} should be {should_be}, is {found}")


def _relative(tensor: str, prefix: str) -> str:
    """A tensor's name without what comes before the model's own names."""
    for known in (prefix, "model.llm.", "model.", "backbone.", "language_model.model."):
        if tensor.startswith(known):
            return tensor.removeprefix(known)
    return tensor


def _cut(rule: Rule | None) -> Rule | None:
    """A rule as it is for any name."""
    return rule and replace(rule, match="*")


def _compiled(rules: Iterable[Rule]) -> list[tuple[re.Pattern[str], Rule]]:
    return [(re.compile(translate(rule.match)), rule) for rule in rules]


def _first(rules: Iterable[tuple[re.Pattern[str], Rule]], tensor: str) -> Rule | None:
    name = re.sub(r"(?<=\.)\*(?=\.|$)", "0", tensor)
    return next((rule for pattern, rule in rules if pattern.match(name)), None)
