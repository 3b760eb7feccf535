from __future__ import annotations

from dataclasses import replace

from shardedmodel_runtime.formats.safetensors import parse_header
from shardedmodel_runtime.layout.objects import PlannedObject, plan_objects
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.sharding.plan import ShardingPlan

TWO = Parallelism(2)


def column(dtype: str = "F32", rows: int = 4) -> TensorCut:
    half = rows // 2
    axis = AxisCut("tensor", 0, (((0, half),), ((half, rows),)), (0, 0))
    return TensorCut(dtype, (rows, 2), "column", (axis,))


NORM = TensorCut("F32", (4,))


def plan(degrees: Parallelism = TWO, **cuts: TensorCut) -> ShardingPlan:
    return ShardingPlan(degrees, "llama", cuts)


def keys(objects: list[PlannedObject]) -> dict[str, list[str]]:
    return {item.key: list(item.names) for item in objects}


def test_each_rank_has_its_own_object_and_replicated_tensors_lie_once_in_common() -> None:
    objects = plan_objects(plan(w=column(), norm=NORM))
    assert {item.key: (item.ranks, list(item.names)) for item in objects} == {
        "tp-00000-of-00002/part-00000.safetensors": ((0,), ["w"]),
        "tp-00001-of-00002/part-00000.safetensors": ((1,), ["w"]),
        "common/part-00000.safetensors": ((0, 1), ["norm"]),
    }


def test_without_cut_tensors_there_are_no_rank_objects() -> None:
    objects = plan_objects(plan(norm=NORM))
    assert list(keys(objects)) == ["common/part-00000.safetensors"]


def test_tensors_lie_by_falling_alignment_and_then_as_they_came() -> None:
    cuts = plan(a=column("U8"), b=column("BF16"), c=column("F64"), d=column("BF16"))
    assert plan_objects(cuts)[0].names == ("c", "b", "d", "a")
    assert plan_objects(cuts)[0].tensor_ranges == ((0, 4),)


def test_every_tensor_is_naturally_aligned_and_data_begin_on_a_page() -> None:
    cuts = plan(a=column("U8", rows=6), b=column("F64"), c=column("BF16", rows=6))
    for item in plan_objects(cuts):
        assert item.data_start % 4096 == 0
        placed = item.placed(cuts.cuts)
        assert [one.start % size for one, size in zip(placed, (8, 2, 1), strict=True)] == [0, 0, 0]


def test_the_header_is_what_a_safetensors_reader_expects() -> None:
    cuts = plan(a=column(), b=column("BF16"))
    item = plan_objects(cuts)[1]
    header = parse_header(item.header, item.size)
    assert [(t.name, t.shape, t.start, t.end) for t in header.tensors] == [
        (one.name, one.piece.shape, one.start, one.end) for one in item.placed(cuts.cuts)
    ]


def test_pad_is_part_of_the_object() -> None:
    axis = AxisCut("tensor", 0, (((0, 2),), ((2, 3),)), (0, 1))
    cuts = plan(w=TensorCut("U8", (3,), "vocab", (axis,)))
    [placed] = plan_objects(cuts)[1].placed(cuts.cuts)
    assert (placed.piece.shape, placed.piece.slices[0].pad) == ((2,), 1)


def test_a_large_rank_goes_on_in_a_next_object() -> None:
    cuts = plan(a=column(), b=column(), c=column(), d=column())
    assert keys(plan_objects(cuts, min_object_bytes=32)) == {
        "tp-00000-of-00002/part-00000.safetensors": ["a", "b"],
        "tp-00000-of-00002/part-00001.safetensors": ["c", "d"],
        "tp-00001-of-00002/part-00000.safetensors": ["a", "b"],
        "tp-00001-of-00002/part-00001.safetensors": ["c", "d"],
    }


def test_parts_of_one_number_hold_the_same_tensors_for_all_ranks() -> None:
    cuts = {f"w{number}": column(rows=2 * number + 1) for number in range(1, 30)}
    parts: dict[str, set[tuple[str, ...]]] = {}
    for item in plan_objects(plan(TWO, **cuts), min_object_bytes=500):
        parts.setdefault(item.key.rpartition("/")[2], set()).add(item.names)
    assert len(parts) > 2
    assert all(len(names) == 1 for names in parts.values())


def test_what_some_ranks_share_lies_in_a_folder_of_theirs() -> None:
    experts = AxisCut("expert", 0, (((0, 2),), ((2, 4),)), (0, 0))
    cuts = plan(
        Parallelism(2, 3, 2),
        dense=replace(column(), stages=(1,)),
        fused=TensorCut("F32", (4, 2), "experts", (experts,), stages=(1,)),
        both=replace(column(), axes=(replace(column().axes[0], dim=1), experts), stages=(2,)),
        own=replace(column(), stages=(2,), expert=1),
        tied=TensorCut("F32", (4, 2), stages=(0, 2)),
        everywhere=NORM,
    )
    found = {item.key.split("/")[0]: (item.ranks, item.names) for item in plan_objects(cuts)}
    stage, expert, tied = "pp-00001-of-00003", "ep-00001-of-00002", "pp-00000-and-00002-of-00003"
    assert found["tp-00001-of-00002." + stage] == ((5, 7), ("dense",))
    assert found[f"{stage}.{expert}"] == ((6, 7), ("fused",))
    assert found["tp-00000-of-00002.pp-00002-of-00003." + expert] == ((10,), ("both", "own"))
    assert found["tp-00000-of-00002.pp-00002-of-00003.ep-00000-of-00002"] == ((8,), ("both",))
    assert found[tied] == ((0, 1, 2, 3, 8, 9, 10, 11), ("tied",))
    assert found["common"] == (tuple(range(12)), ("everywhere",))


def test_tensor_ranks_of_equal_pieces_share_one_header() -> None:
    first, second = plan_objects(plan(a=column(), b=column("BF16")))
    assert first.header is second.header
    assert first.names is second.names
