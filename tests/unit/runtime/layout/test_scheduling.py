from __future__ import annotations

import pytest

from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.layout.scheduling import most_open, objects_of_worker, passes

ORDER = {name: number for number, name in enumerate("abcdef")}


def planned(key: str, tensors: str) -> PlannedObject:
    return PlannedObject(key, (0,), 0, 0, b"", tuple(tensors), (), size=10 * len(tensors))


def keys(groups: list[tuple[PlannedObject, ...]]) -> list[list[str]]:
    return [[item.key for item in group] for group in groups]


def test_objects_that_follow_each_other_are_written_in_one_pass() -> None:
    objects = [planned("1", "ab"), planned("2", "cd"), planned("3", "ef")]
    assert keys(passes(objects, ORDER, at_once=1)) == [["1", "2", "3"]]


def test_objects_that_are_open_together_are_counted() -> None:
    objects = [planned("1", "ab"), planned("2", "ab"), planned("3", "bc"), planned("4", "de")]
    assert most_open(objects, ORDER) == 3


def test_a_further_pass_takes_what_would_be_too_many_open_objects() -> None:
    objects = [
        planned("0.0", "ab"),
        planned("1.0", "ab"),
        planned("0.1", "cd"),
        planned("1.1", "cd"),
    ]
    groups = passes(objects, ORDER, at_once=1)
    assert keys(groups) == [["0.0", "0.1"], ["1.0", "1.1"]]
    assert [most_open(group, ORDER) for group in groups] == [1, 1]


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_object_has_one_worker_and_no_tensor_has_two(workers: int) -> None:
    objects = [planned(f"{rank}.{run}", run) for run in ("ab", "cd", "ef") for rank in range(4)]
    shares = [objects_of_worker(objects, ORDER, worker, workers) for worker in range(workers)]
    tensors = [{name for item in share for name in item.names} for share in shares]
    assert sorted(item.key for share in shares for item in share) == sorted(
        item.key for item in objects
    )
    assert sum(len(names) for names in tensors) == len(set().union(*tensors)) == 6


def test_workers_get_about_equal_bytes() -> None:
    objects = [planned(name, name) for name in "abcdef"]
    assert [len(objects_of_worker(objects, ORDER, worker, 3)) for worker in range(3)] == [2, 2, 2]
