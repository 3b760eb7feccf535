"""``CheckpointMetadata``: what is known of a checkpoint without its weights.

Read from the configuration, the index and the safetensors headers alone, by ranged reads in
parallel; two requests to an object (describe and read) unless its header is unusually long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from shardedmodel_runtime.errors import (
    InvalidIndex,
    InvalidSafetensors,
    NotFound,
    PickleCheckpoint,
    excerpt,
)
from shardedmodel_runtime.formats.hf import (
    CONFIG_BYTES_LIMIT,
    CONFIG_KEY,
    INDEX_BYTES_LIMIT,
    INDEX_KEY,
    PICKLE_SUFFIXES,
    SINGLE_KEY,
    ModelConfig,
    check_index,
    parse_config,
    parse_index,
)
from shardedmodel_runtime.formats.quantisation import Quantisation
from shardedmodel_runtime.formats.safetensors import (
    LENGTH_BYTES,
    Header,
    header_length,
    parse_header,
)
from shardedmodel_runtime.storage.base import ObjectInfo, ObjectStore

FIRST_READ_BYTES = 256 * 1024
"""Holds the whole header of almost every published file, so one ranged read is enough."""
HEADER_THREADS = 8
"""Headers are small and far: latency, not bandwidth, is what parallel reads hide."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of a checkpoint: ``start`` and ``end`` are bytes from its object's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    key: str
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """A checkpoint without its weights.

    ``objects`` are its safetensors files, ``tensors`` all their tensors by name, in the order of
    files and, within one, of bytes. ``described`` are configuration and index, as far as there.
    """

    config: ModelConfig
    objects: tuple[ObjectInfo, ...]
    described: tuple[ObjectInfo, ...]
    tensors: Mapping[str, SourceTensor]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def digests(self) -> dict[str, str]:
        """Digest of every object that the checkpoint consists of, by key."""
        return {item.key: item.digest for item in (*self.described, *self.objects)}

    @classmethod
    def read(cls, store: ObjectStore) -> CheckpointMetadata:
        """Read what there is to know from ``store``, whose root is the checkpoint's folder.

        Raises:
            NotFound: there is no configuration, or no weights.
            PickleCheckpoint: the only weights are pickles.
            InvalidIndex: the index does not match the files.
            InvalidSafetensors: a file's header breaks the format.
            CheckpointError: the configuration is unusable.
        """
        config_info = store.describe(CONFIG_KEY)
        config = parse_config(
            store.read(CONFIG_KEY, limit=CONFIG_BYTES_LIMIT, digest=config_info.digest)
        )
        index_info = _describe_if_there(store, INDEX_KEY)
        if index_info is not None:
            data = store.read(INDEX_KEY, limit=INDEX_BYTES_LIMIT, digest=index_info.digest)
            weight_map = parse_index(data)
            objects = _files_of_index(store, weight_map)
            headers = _read_headers(store, objects)
            check_index(
                weight_map,
                {key: [entry.name for entry in header.tensors] for key, header in headers.items()},
            )
        else:
            objects = _files_without_index(store)
            headers = _read_headers(store, objects)
        described = (config_info, *((index_info,) if index_info else ()))
        return cls(config, objects, described, _tensors(headers))

    def to_json(self) -> str:
        """Serialise; :meth:`from_json` gives an equal object back."""
        return json.dumps(
            {
                "config": asdict(self.config),
                "objects": [asdict(item) for item in self.objects],
                "described": [asdict(item) for item in self.described],
                "tensors": [asdict(tensor) for tensor in self.tensors.values()],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> CheckpointMetadata:
        """Read what :meth:`to_json` wrote."""
        fields = json.loads(text)
        tensors = [
            SourceTensor(**{**each, "shape": tuple(each["shape"])}) for each in fields["tensors"]
        ]
        return cls(
            _config(fields["config"]),
            tuple(ObjectInfo(**each) for each in fields["objects"]),
            tuple(ObjectInfo(**each) for each in fields["described"]),
            {tensor.name: tensor for tensor in tensors},
        )


def _config(fields: dict[str, Any]) -> ModelConfig:
    quantisation = fields.pop("quantisation")
    if quantisation is None:
        return ModelConfig(**fields)
    block = quantisation.pop("block")
    packing = Quantisation(**quantisation, block=tuple(block) if block else None)
    return ModelConfig(**fields, quantisation=packing)


def _describe_if_there(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return store.describe(key)
    except NotFound:
        return None


def _files_of_index(store: ObjectStore, weight_map: Mapping[str, str]) -> tuple[ObjectInfo, ...]:
    def describe(key: str) -> ObjectInfo:
        try:
            return store.describe(key)
        except NotFound as e:
            raise InvalidIndex(
                f"{INDEX_KEY}: names {excerpt(key)}, which is not there; upload the whole folder"
            ) from e

    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="describe") as pool:
        return tuple(pool.map(describe, sorted(set(weight_map.values()))))


def _files_without_index(store: ObjectStore) -> tuple[ObjectInfo, ...]:
    single = _describe_if_there(store, SINGLE_KEY)
    if single is not None:
        return (single,)
    found = sorted(store.list(), key=lambda info: info.key)
    files = tuple(info for info in found if info.key.endswith(".safetensors"))
    if files:
        return files
    pickles = [info.key for info in found if info.key.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise PickleCheckpoint(
            f"{store.uri}: holds only pickles ({excerpt(pickles[0])}), which can run code and are "
            "never read; convert the checkpoint to safetensors"
        )
    raise NotFound(f"{store.uri}: holds no .safetensors file")


def _read_headers(store: ObjectStore, objects: Sequence[ObjectInfo]) -> dict[str, Header]:
    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="header") as pool:
        headers = pool.map(lambda info: _read_header(store, info), objects)
        return {info.key: header for info, header in zip(objects, headers, strict=True)}


def _read_header(store: ObjectStore, info: ObjectInfo) -> Header:
    label = f"{store.uri}/{info.key}"
    beginning = _read_bytes(store, info, 0, min(info.size, FIRST_READ_BYTES))
    end = LENGTH_BYTES + header_length(beginning, info.size, name=label)
    if end > len(beginning):
        beginning += _read_bytes(store, info, len(beginning), end - len(beginning))
    return parse_header(beginning[:end], info.size, name=label)


def _read_bytes(store: ObjectStore, info: ObjectInfo, start: int, count: int) -> bytes:
    buffer = bytearray(count)
    if count:
        store.read_range(info.key, start, memoryview(buffer), digest=info.digest)
    return bytes(buffer)


def _tensors(headers: Mapping[str, Header]) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    for key, header in headers.items():
        for tensor in _of_object(key, header):
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                raise InvalidSafetensors(
                    f"tensor {excerpt(tensor.name)!r} lies in both {other.key} and {key}"
                )
    return tensors


def _of_object(key: str, header: Header) -> Iterable[SourceTensor]:
    for entry in header.tensors:
        yield SourceTensor(
            entry.name,
            entry.dtype,
            entry.shape,
            key,
            header.data_start + entry.start,
            header.data_start + entry.end,
        )
