"""``docs/architectures.md``: every model type, where its plan comes from, and what is split."""

from __future__ import annotations

from collections.abc import Mapping

from shardedmodel_runtime.sharding.architectures.carried import carried, carried_types
from shardedmodel_runtime.sharding.architectures.decoders import DECODERS
from shardedmodel_runtime.sharding.architectures.encoders import ENCODERS
from shardedmodel_runtime.sharding.architectures.supplements import AROUND, SUPPLEMENTS
from shardedmodel_runtime.sharding.cuts import REPLICATE
from shardedmodel_runtime.sharding.families import FAMILIES
from tools.architectures.instances import LEFT_OUT

_HEAD = """# Architectures

Generated from the code by `python -m tools.architectures`; do not edit.

These {count} model types (`model_type` in `config.json`) have built-in rules; any other needs
`sharding.rules` of its own. Plans of *transformers* are those that transformers {version} carries
for its own tensor parallelism, under the names that checkpoints have on disk; *and by hand* adds
what they leave whole. A *composite* model is cut as the language model inside it, and its towers
for images and sound stay whole on every rank, unless the plan of the composite itself names them:
they have numbers of heads of their own, often odd ones. Norms, routers, positions and what belongs
to single tasks are whole everywhere.

Layers with heads of their own (sliding and full attention of gemma4, mimo_v2_flash, step3p7,
laguna) are cut by `per_layer_config` of `config.json`, or by what published configurations say
instead; where layers differ and the configuration does not tell how, the plan refuses. The experts
of gpt_oss in MXFP4 are cut in whole blocks of 32 inputs, with their scales.

No data is generated for these types, and those marked *by hand* have rules of their own:

{left_out}

`python -m tests.integration.runtime.reference` splits small random models over groups of 2 and 4
processes. Shards of some 40 types that transformers has a plan for are compared with what it puts
on each rank, bit for bit. For these, but for olmo2, olmo3 and olmoe, whose norms of queries and
keys go over the heads of all ranks, and for every type *by hand* the sharded model is run: its
logits, or its last hidden state where the model has no head, are those of the whole one (fp32, at
most 1e-4 apart). Shards differ from those of transformers where gate and up, or query, key and
value, lie in one tensor that transformers cuts as one matrix (`gate_up_proj` and `qkv_proj` of
glm, glm4 and phi3): here every part is cut by itself, so that a rank can go on without gathering.

| model types | plan | split |
|---|---|---|
"""


def page() -> str:
    """The text of the page."""
    rows: dict[tuple[str, str], list[str]] = {}
    for model_type in FAMILIES:
        rows.setdefault((_origin(model_type), _split(model_type)), []).append(model_type)
    lines = [
        f"| {', '.join(f'`{name}`' for name in types)} | {origin} | {split} |"
        for (origin, split), types in sorted(rows.items(), key=lambda row: row[1])
    ]
    left_out = "\n".join(f"- `{name}`: {why}." for name, why in LEFT_OUT.items())
    head = _HEAD.format(count=len(FAMILIES), version=carried()["transformers"], left_out=left_out)
    return head + "\n".join(lines) + "\n"


def _origin(model_type: str) -> str:
    if model_type in DECODERS or model_type in ENCODERS:
        return "by hand"
    if model_type in AROUND:
        return f"composite of `{AROUND[model_type][0]}`"
    composite = carried()["composites"].get(model_type)
    if composite:
        return f"composite of `{composite['text']}`"
    assert model_type in carried_types()
    return "transformers" + (", and by hand" if model_type in SUPPLEMENTS else "")


def _split(model_type: str) -> str:
    modules: dict[str, list[str]] = {}
    for rule in FAMILIES[model_type]:
        if rule.strategy != REPLICATE:
            name = rule.match.removesuffix(".bias").removesuffix(".weight")
            found = modules.setdefault(rule.strategy, [])
            if (leaf := _leaf(name)) not in found:
                found.append(leaf)
    return "; ".join(f"{strategy}: {' '.join(names)}" for strategy, names in _sorted(modules))


def _leaf(name: str) -> str:
    """The last words of a module's name, enough to tell what it is."""
    words = [word for word in name.lstrip("*").split(".") if word not in ("*", "")]
    generic = {"dense", "linear", "q", "k", "v", "o", "query", "key", "value"}
    return ".".join(words[-2:] if words[-1] in generic else words[-1:])


def _sorted(modules: Mapping[str, list[str]]) -> list[tuple[str, list[str]]]:
    order = ["heads", "packed", "column", "row", "experts", "vocab"]
    return sorted(modules.items(), key=lambda item: order.index(item[0]))
