from __future__ import annotations

from shardedmodel_runtime.formats.safetensors import parse_header
from shardedmodel_runtime.layout.objects import PlannedObject, plan_objects
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.plan import ShardingPlan, TensorCut


def column(name: str, dtype: str = "F32", rows: int = 4) -> TensorCut:
    half = rows // 2
    ranges = (((0, half),), ((half, rows),))
    return TensorCut(name, dtype, (rows, 2), "column", 0, ranges, (0, 0))


def plan(*cuts: TensorCut) -> ShardingPlan:
    return ShardingPlan(Parallelism(2), "llama", {cut.name: cut for cut in cuts})


def keys(objects: list[PlannedObject]) -> dict[str, list[str]]:
    return {item.key: list(item.tensors) for item in objects}


def test_each_rank_has_its_own_object_and_replicated_tensors_lie_once_in_common() -> None:
    objects = plan_objects(plan(column("w"), TensorCut("norm", "F32", (4,))))
    assert {item.key: (item.ranks, list(item.tensors)) for item in objects} == {
        "tp-00000-of-00002/part-00000.safetensors": ((0,), ["w"]),
        "tp-00001-of-00002/part-00000.safetensors": ((1,), ["w"]),
        "common/part-00000.safetensors": ((0, 1), ["norm"]),
    }


def test_without_cut_tensors_there_are_no_rank_objects() -> None:
    objects = plan_objects(plan(TensorCut("norm", "F32", (4,))))
    assert list(keys(objects)) == ["common/part-00000.safetensors"]


def test_tensors_lie_by_falling_alignment_and_then_as_they_came() -> None:
    cuts = [column("a", "U8"), column("b", "BF16"), column("c", "F64"), column("d", "BF16")]
    assert list(plan_objects(plan(*cuts))[0].tensors) == ["c", "b", "d", "a"]


def test_every_tensor_is_naturally_aligned_and_data_begin_on_a_page() -> None:
    cuts = [column("a", "U8", rows=6), column("b", "F64"), column("c", "BF16", rows=6)]
    for item in plan_objects(plan(*cuts)):
        assert item.data_start % 4096 == 0
        assert [
            tensor.start % size
            for tensor, size in zip(item.tensors.values(), (8, 2, 1), strict=True)
        ] == [0, 0, 0]


def test_the_header_is_what_a_safetensors_reader_expects() -> None:
    item = plan_objects(plan(column("a"), column("b", "BF16")))[1]
    header = parse_header(item.header, item.size)
    assert [(t.name, t.shape, t.start, t.end) for t in header.tensors] == [
        (name, tuple(t.shape), t.start, t.end) for name, t in item.tensors.items()
    ]


def test_pad_is_part_of_the_object() -> None:
    cut = TensorCut("w", "U8", (3,), "vocab", 0, (((0, 2),), ((2, 3),)), (0, 1))
    second = plan_objects(plan(cut))[1]
    assert (second.tensors["w"].shape, second.tensors["w"].pad) == ([2], 1)


def test_a_large_rank_goes_on_in_a_next_object() -> None:
    objects = plan_objects(plan(column("a"), column("b"), column("c")), max_object_bytes=32)
    assert keys(objects) == {
        "tp-00000-of-00002/part-00000.safetensors": ["a", "b"],
        "tp-00000-of-00002/part-00001.safetensors": ["c"],
        "tp-00001-of-00002/part-00000.safetensors": ["a", "b"],
        "tp-00001-of-00002/part-00001.safetensors": ["c"],
    }


def test_a_tensor_larger_than_an_object_should_be_has_one_of_its_own() -> None:
    objects = plan_objects(plan(column("a"), column("b")), max_object_bytes=1)
    assert [list(item.tensors) for item in objects] == [["a"], ["b"], ["a"], ["b"]]
