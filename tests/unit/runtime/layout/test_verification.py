from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.verification import Problem, Verification, verify_layout
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import make_checkpoint, shard

COMMON = "common/part-00000.safetensors"


class Layout:
    """A finished layout of two ranks on disk."""

    def __init__(self, folder: Path) -> None:
        checkpoint = make_checkpoint(folder / "source", "bert")
        _, self.manifest, self.uri = shard(checkpoint.uri, folder.as_uri(), 2)
        self.folder = Path(self.uri.removeprefix("file://"))

    def verify(self, manifest: Manifest | None = None) -> Verification:
        with open_store(self.uri) as store:
            return verify_layout(store, manifest or self.manifest)

    def flip(self, position: int) -> None:
        data = bytearray((self.folder / COMMON).read_bytes())
        data[position] ^= 1
        (self.folder / COMMON).write_bytes(data)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def problems(verification: Verification) -> list[tuple[str, str]]:
    return [(problem.key, problem.message) for problem in verification.problems]


def test_a_whole_layout_has_no_problems(layout: Layout) -> None:
    found = layout.verify()
    found.raise_if_broken()
    assert (found.objects, found.bytes) == (3, layout.manifest.total_bytes)
    assert found.digests.keys() == {item.key for item in layout.manifest.objects}


def test_an_object_that_is_missing_or_short_is_a_broken_layout(layout: Layout) -> None:
    first, second, _ = layout.manifest.objects
    (layout.folder / first.key).unlink()
    (layout.folder / second.key).write_bytes(b"short")
    found = {problem.key: problem.reason for problem in layout.verify().problems}
    assert found == {first.key: "LayoutError", second.key: "LayoutError"}


def test_one_flipped_bit_is_found_and_placed(layout: Layout) -> None:
    layout.flip(-1)
    found = layout.verify()
    assert problems(found) == [(COMMON, "block 0 (from byte 0) differs")]
    assert [problem.reason for problem in found.problems] == ["ChecksumMismatch"]
    with pytest.raises(LayoutError, match="broken objects of the layout: 1, the first is common"):
        found.raise_if_broken()
    assert COMMON not in found.digests


def test_an_object_with_several_problems_is_broken_once() -> None:
    found = [Problem(COMMON, "ChecksumMismatch", f"block {number} differs") for number in (0, 1)]
    with pytest.raises(LayoutError, match="broken objects of the layout: 1, the first is common"):
        Verification(2, 0, found).raise_if_broken()


def test_a_missing_object_is_a_problem(layout: Layout) -> None:
    (layout.folder / COMMON).unlink()
    [(key, message)] = problems(layout.verify())
    assert key == COMMON
    assert "does not exist" in message


def test_an_object_of_another_size_is_a_problem(layout: Layout) -> None:
    with (layout.folder / COMMON).open("ab") as file:
        file.write(b"x")
    [(_, message)] = problems(layout.verify())
    assert message.startswith("has ")


def test_a_broken_header_is_a_problem(layout: Layout) -> None:
    layout.flip(8)
    messages = [message for _, message in problems(layout.verify())]
    assert any("does not begin with" in message for message in messages)


def changed(manifest: Manifest, **changes: object) -> Manifest:
    """A manifest whose common object says something else."""
    objects = [
        item.model_copy(update=changes) if item.key == COMMON else item for item in manifest.objects
    ]
    return manifest.model_copy(update={"objects": objects})


def test_a_manifest_with_another_sha256_is_a_problem(layout: Layout) -> None:
    manifest = changed(layout.manifest, sha256="0" * 64)
    assert "SHA-256 differs" in problems(layout.verify(manifest))[0][1]


def test_a_manifest_that_names_other_tensors_is_a_problem(layout: Layout) -> None:
    item = next(item for item in layout.manifest.objects if item.key == COMMON)
    manifest = changed(layout.manifest, tensors=[(first + 1, stop) for first, stop in item.tensors])
    assert "other tensors" in problems(layout.verify(manifest))[0][1]


def test_progress_adds_up_to_all_bytes(layout: Layout) -> None:
    told: list[int] = []
    with open_store(layout.uri) as store:
        verify_layout(store, layout.manifest, told.append)
    assert sum(told) == layout.manifest.total_bytes


class Hanging(LocalStore):
    """A store whose common object hangs until its read is ended; Ctrl-C comes meanwhile."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(parse_uri(layout.uri))
        self.hangs = threading.Event()
        self.ended = threading.Event()

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        assert reading is not None
        if key != COMMON:
            assert self.hangs.wait(30)
            raise KeyboardInterrupt
        with reading.landing("", self.ended.set):
            self.hangs.set()
            assert self.ended.wait(30)
        reading.check()


def test_what_ends_a_verification_ends_its_reads(layout: Layout) -> None:
    store = Hanging(layout)
    with pytest.raises(KeyboardInterrupt):
        verify_layout(store, layout.manifest)
    assert store.ended.is_set()
