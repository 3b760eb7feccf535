"""Whatever is cut comes back bit for bit: shapes, dtypes, strategies and degrees at random."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.plan import cut_bytes, manifest_of, plan_of, random_bytes, recombined

REPEATING = ("heads", "packed")
"""Strategies by which several ranks may hold the same key-value heads."""

DTYPES = sorted(DTYPE_BITS)


@st.composite
def degrees(draw: st.DrawFn) -> Parallelism:
    return Parallelism(
        draw(st.sampled_from([1, 2, 3, 4])),
        draw(st.sampled_from([1, 2, 3])),
        draw(st.sampled_from([1, 2, 4])),
    )


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[Rule]]:
    """A model of some layers: its configuration, shapes and dtypes, and rules."""
    kv = draw(st.sampled_from([1, 2, 4]))
    heads = kv * draw(st.sampled_from([1, 2, 4]))
    width = draw(st.sampled_from([2, 4]))
    hidden = heads * width
    inner = draw(st.integers(1, 6)) * 4
    experts = 4
    uneven: Literal["refuse", "chunk"] = draw(st.sampled_from(["refuse", "chunk"]))
    transposed = draw(st.booleans())
    inside = draw(st.sampled_from(["", "column", "row", "packed", "replicate"]))
    is_cut = inside not in ("", "replicate")
    rest: Literal["refuse", "chunk"] = "chunk" if is_cut else "refuse"
    config = {
        "model_type": "made-up",
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": draw(st.booleans()),
    }
    up = (hidden, inner) if transposed else (inner, hidden)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (draw(st.integers(1, 70)), hidden)}
    for layer in range(3):
        prefix = f"layers.{layer}."
        shapes |= {
            f"{prefix}q.weight": (hidden, hidden),
            f"{prefix}q.bias": (hidden,),
            f"{prefix}k.weight": (kv * width, hidden),
            f"{prefix}qkv.weight": ((heads + 2 * kv) * width, hidden),
            f"{prefix}grouped.weight": ((heads + 2 * kv) * width, hidden),
            f"{prefix}out.weight": (hidden, hidden),
            f"{prefix}out.bias": (hidden,),
            f"{prefix}up.weight": up,
            f"{prefix}up.bias": (inner,),
            f"{prefix}gate_up.weight": (2 * inner, hidden),
            f"{prefix}thirds.weight": (3 * inner, hidden),
            f"{prefix}down.weight": up[::-1],
            f"{prefix}experts.all": (experts, inner, hidden),
            f"{prefix}norm.weight": (hidden,),
        }
        shapes |= {f"{prefix}experts.{n}.one.weight": (inner, hidden) for n in range(experts)}
    shapes["final_norm.weight"] = (hidden,)
    rules = [
        Rule("embed_tokens.weight", "vocab", multiple=draw(st.sampled_from([1, 8, 64]))),
        Rule("*.q.weight", "heads"),
        Rule("*.k.weight", "heads", parts=("key",)),
        Rule("*.qkv.weight", "packed", parts=("query", "key", "value")),
        Rule("*.grouped.weight", "heads", parts=("group",)),
        Rule("*.out.weight", "row", uneven="chunk"),
        Rule("*.up.weight", "column", transposed, uneven=uneven),
        Rule("*.gate_up.weight", "packed", uneven=uneven),
        Rule("*.thirds.weight", "packed", parts=(1, 2), uneven=uneven),
        Rule("*.down.weight", "row", transposed, uneven=uneven),
        Rule("*.experts.all", "experts", transposed and is_cut, inner=inside, uneven=rest),
        Rule("*.experts.*.weight", "experts", inner=inside, uneven=rest),
        Rule("*norm.weight", "replicate"),
    ]
    first = draw(st.integers(0, len(DTYPES) - 1))
    described = {
        name: (whole_bytes(DTYPES[(first + number) % len(DTYPES)], shape), shape)
        for number, (name, shape) in enumerate(shapes.items())
    }
    return config, described, rules


def whole_bytes(dtype: str, shape: tuple[int, ...]) -> str:
    """The dtype, or another where its elements would not fill whole bytes."""
    return dtype if math.prod(shape) * DTYPE_BITS[dtype] % 8 == 0 else "U8"


def plan_or_refuse(
    parallelism: Parallelism, checkpoint: tuple[dict[str, Any], dict[str, Any], list[Rule]]
) -> ShardingPlan:
    config, shapes, rules = checkpoint
    try:
        return plan_of(config, shapes, parallelism, rules)
    except InvalidSharding:
        assume(False)
        raise


@settings(max_examples=25)
@given(degrees(), checkpoints())
def test_a_whole_checkpoint_comes_back_from_what_its_ranks_hold(
    parallelism: Parallelism, checkpoint: tuple[dict[str, Any], dict[str, Any], list[Rule]]
) -> None:
    plan = plan_or_refuse(parallelism, checkpoint)
    for number, cut in enumerate(plan.kinds):
        data = random_bytes(cut, number)
        assert recombined(cut, parallelism, cut_bytes(cut, parallelism, data)) == data


@settings(max_examples=25)
@given(degrees(), checkpoints())
def test_its_layout_is_proven_complete(
    parallelism: Parallelism, checkpoint: tuple[dict[str, Any], dict[str, Any], list[Rule]]
) -> None:
    plan = plan_or_refuse(parallelism, checkpoint)
    manifest = manifest_of(plan)
    assert dict(manifest.tensors) == plan.cuts
    for rank in range(parallelism.world_size):
        headers = sum(item.data_start for item in manifest.objects_of(rank))
        assert manifest.rank_bytes(rank) - headers == plan.rank_bytes(rank)


def times_held(cut: TensorCut, parallelism: Parallelism) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each element of a tensor, how many places have it, of ranks whose pieces may differ."""
    counts = np.zeros(cut.shape, np.int64)
    for expert in range(parallelism.expert if cut.axis("expert") else 1):
        for tensor in range(parallelism.tensor if cut.axis("tensor") else 1):
            held = np.ones(cut.shape, bool)
            for part in cut.piece(tensor, expert).slices:
                rows = np.zeros(cut.shape[part.dim], bool)
                for start, stop in part.ranges:
                    rows[start:stop] = True
                held &= rows.reshape([-1 if d == part.dim else 1 for d in range(counts.ndim)])
            counts += held
    return counts


@settings(max_examples=25)
@given(degrees(), checkpoints())
def test_every_element_is_held_once_and_heads_perhaps_more_often(
    parallelism: Parallelism, checkpoint: tuple[dict[str, Any], dict[str, Any], list[Rule]]
) -> None:
    for cut in plan_or_refuse(parallelism, checkpoint).kinds:
        counts = times_held(cut, parallelism)
        assert (counts >= 1).all()
        assert cut.strategy in REPEATING or (counts == 1).all()


CASTS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@settings(max_examples=25)
@given(degrees(), checkpoints(), st.sampled_from(sorted(CASTS)))
def test_what_is_cast_has_the_size_of_its_new_dtype_and_all_else_comes_back(
    parallelism: Parallelism,
    checkpoint: tuple[dict[str, Any], dict[str, Any], list[Rule]],
    dtype: str,
) -> None:
    config, shapes, rules = checkpoint
    try:
        plan = plan_of(config, shapes, parallelism, rules, dtype=dtype)
    except InvalidSharding:
        assume(False)
    for cut in plan.kinds:
        data = random_bytes(cut)
        back = recombined(cut, parallelism, cut_bytes(cut, parallelism, data))
        source_dtype = cut.cast_from or cut.dtype
        is_float = source_dtype in ("F64", "F32", "F16", "BF16")
        assert cut.dtype == (CASTS[dtype] if is_float else source_dtype)
        assert len(back) == cut.nbytes
        assert back == data or cut.cast_from


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["column", "row", "vocab", "packed", "experts", "replicate"])
def test_every_dtype_comes_back_from_every_strategy(dtype: str, strategy: str) -> None:
    parallelism = Parallelism(2)
    config = {"model_type": "made-up"}
    plan = plan_of(config, {"w": (dtype, (8, 16))}, parallelism, [Rule("w", strategy)])
    data = random_bytes(plan.cuts["w"])
    held = cut_bytes(plan.cuts["w"], parallelism, data)
    assert recombined(plan.cuts["w"], parallelism, held) == data
