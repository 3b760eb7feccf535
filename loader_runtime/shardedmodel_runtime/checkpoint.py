"""``CheckpointMetadata``: what is known of a checkpoint without its weights.

Read from the configuration, the index and the safetensors headers alone, in parallel; one request
to an object, whose answer tells size and digest as well, unless its header is unusually long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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
from shardedmodel_runtime.formats.layers import LayerHeads
from shardedmodel_runtime.formats.quantisation import Quantisation
from shardedmodel_runtime.formats.safetensors import (
    LENGTH_BYTES,
    Header,
    header_length,
    parse_header,
)
from shardedmodel_runtime.memory import collection_paused
from shardedmodel_runtime.naming import is_layout_name
from shardedmodel_runtime.storage.base import ObjectInfo, ReadableStore, too_large
from shardedmodel_runtime.storage.uri import join_uri, last_part

FIRST_READ_BYTES = 256 * 1024
"""Holds the whole header of almost every published file, so one ranged read is enough."""
HEADER_THREADS = 8
"""Headers are small and far: latency, not bandwidth, is what parallel reads hide."""


class SourceTensor(NamedTuple):
    """One tensor of a checkpoint: ``start`` and ``end`` are bytes from its object's beginning.

    A tuple, because large models have hundreds of thousands of them.
    """

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
    @collection_paused()
    def read(cls, store: ReadableStore) -> CheckpointMetadata:
        """Read what there is to know from ``store``, whose root is the checkpoint's folder.

        Raises:
            NotFound: there is no configuration, or no weights.
            PickleCheckpoint: the only weights are pickles.
            InvalidIndex: the index does not match the files.
            InvalidSafetensors: a file's header breaks the format.
            CheckpointError: the configuration is unusable.
        """
        config_info, config = _read_config(store)
        model = parse_config(config)
        try:
            index_info, index = _read_small(store, INDEX_KEY, INDEX_BYTES_LIMIT)
        except NotFound:
            objects, headers = _read_without_index(store)
            return cls(model, objects, (config_info,), _tensors(headers))
        weight_map = parse_index(index)
        try:
            objects, headers = _read_headers(store, sorted(set(weight_map.values())))
        except NotFound as e:
            raise InvalidIndex(
                f"{INDEX_KEY}: names a file that is not there: {e.what}; upload the whole folder"
            ) from e
        check_index(
            weight_map,
            {key: [entry.name for entry in header.tensors] for key, header in headers.items()},
        )
        return cls(model, objects, (config_info, index_info), _tensors(headers))

    def to_json(self) -> str:
        """Serialise; :meth:`from_json` gives an equal object back."""
        return json.dumps(
            {
                "config": asdict(self.config),
                "objects": [asdict(item) for item in self.objects],
                "described": [asdict(item) for item in self.described],
                "tensors": [tensor._asdict() for tensor in self.tensors.values()],
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
    fields["layers"] = tuple(LayerHeads(*each) for each in fields["layers"])
    if quantisation is None:
        return ModelConfig(**fields)
    block = quantisation.pop("block")
    packing = Quantisation(**quantisation, block=tuple(block) if block else None)
    return ModelConfig(**fields, quantisation=packing)


Headers = dict[str, Header]
"""Each file's header, by key."""


def _read_config(store: ReadableStore) -> tuple[ObjectInfo, bytes]:
    try:
        return _read_small(store, CONFIG_KEY, CONFIG_BYTES_LIMIT)
    except NotFound as e:
        if not is_layout_name(last_part(store.uri)):
            raise
        raise NotFound(e.what, "a layout is no checkpoint, `shardedmodel reshard` cuts it") from e


def _read_small(store: ReadableStore, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
    info, data = store.read_head(key, limit)
    if info.size > limit:
        raise too_large(join_uri(store.uri, key), info.size, limit)
    return info, data


def _read_without_index(store: ReadableStore) -> tuple[tuple[ObjectInfo, ...], Headers]:
    try:
        info, header = _read_header(store, SINGLE_KEY)
        return (info,), {SINGLE_KEY: header}
    except NotFound:
        return _read_headers(store, _listed_files(store))


def _listed_files(store: ReadableStore) -> list[str]:
    found = sorted(info.key for info in store.list())
    files = [key for key in found if key.endswith(".safetensors")]
    if files:
        return files
    pickles = [key for key in found if key.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise PickleCheckpoint(
            f"{store.uri}: holds only pickles ({excerpt(pickles[0])}), which can run code and are "
            "never read; convert the checkpoint to safetensors"
        )
    raise NotFound(f"{store.uri}: holds no .safetensors file")


def _read_headers(
    store: ReadableStore, keys: Sequence[str]
) -> tuple[tuple[ObjectInfo, ...], Headers]:
    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="header") as pool:
        found = list(pool.map(lambda key: _read_header(store, key), keys))
    return tuple(info for info, _ in found), {info.key: header for info, header in found}


def _read_header(store: ReadableStore, key: str) -> tuple[ObjectInfo, Header]:
    label = join_uri(store.uri, key)
    info, data = store.read_head(key, FIRST_READ_BYTES)
    end = LENGTH_BYTES + header_length(data, info.size, name=label)
    if end > len(data):
        whole = bytearray(end)
        whole[: len(data)] = data
        store.read_range(key, len(data), memoryview(whole)[len(data) :], digest=info.digest)
        return info, parse_header(whole, info.size, name=label)
    return info, parse_header(data, info.size, name=label)


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
