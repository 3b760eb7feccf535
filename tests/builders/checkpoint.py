"""Small checkpoints made by hand: configurations, safetensors bytes and whole folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from shardedmodel_runtime.errors import NotFound
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.base import CountingStore, ObjectInfo, ObjectWriter
from shardedmodel_runtime.storage.reading import Reading

Array = NDArray[Any]

NUMPY_DTYPES = {"F32": np.float32, "BF16": np.uint16, "F16": np.float16, "I64": np.int64}
"""numpy has no bfloat16: its bits are carried as ``uint16``."""


def safetensors_bytes(tensors: Mapping[str, tuple[str, Array]]) -> bytes:
    """A safetensors file with (dtype, array) by name, in the order given."""
    header = build_header((name, dtype, array.shape) for name, (dtype, array) in tensors.items())
    return header + b"".join(array.tobytes() for _, array in tensors.values())


def random_bits(dtype: str, shape: tuple[int, ...], seed: int = 0) -> tuple[str, Array]:
    """Random bits of ``dtype``, NaN payloads and all."""
    kind = np.dtype(NUMPY_DTYPES[dtype])
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    bits = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    return dtype, bits.view(kind).reshape(shape)


def llama_config(**changes: Any) -> dict[str, Any]:
    """``config.json`` of a small Llama with grouped-query attention: 8 heads, 4 key-value heads."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 320,
    }
    return {**config, **changes}


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a Llama of ``config`` has."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shared = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (shared, hidden),
            f"{prefix}.self_attn.v_proj.weight": (shared, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }


def bert_config(**changes: Any) -> dict[str, Any]:
    """``config.json`` of a small BERT: 4 heads, a vocabulary that no rank count divides."""
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 101,
    }
    return {**config, **changes}


def bert_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a BERT of ``config`` has."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (16, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ):
            shapes[f"{prefix}.{name}.weight"] = (rows, columns)
            shapes[f"{prefix}.{name}.bias"] = (rows,)
        shapes[f"{prefix}.output.LayerNorm.weight"] = (hidden,)
    return shapes | {"pooler.dense.weight": (hidden, hidden), "pooler.dense.bias": (hidden,)}


def moe_config(**changes: Any) -> dict[str, Any]:
    """``config.json`` of a small mixture of experts of a type that nobody knows."""
    return {**llama_config(model_type="made-up", num_hidden_layers=4), "experts": 4, **changes}


def moe_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """A Llama with experts: fused in the first layer, then in tensors of their own."""
    hidden, inner, experts = config["hidden_size"], 32, config["experts"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in llama_shapes(config).items():
        prefix, found, part = name.partition(".mlp.")
        if not found:
            shapes[name] = shape
        elif part == "up_proj.weight":
            shapes[f"{prefix}.router.weight"] = (experts, hidden)
            if prefix == "model.layers.0":
                shapes[f"{prefix}.experts.down"] = (experts, hidden, inner)
                continue
            for number in range(experts):
                shapes[f"{prefix}.experts.{number}.up.weight"] = (inner, hidden)
    return shapes


MOE_RULES = (
    Rule("*.q_proj.weight", "heads"),
    Rule("*.[kv]_proj.weight", "heads"),
    Rule("*.o_proj.weight", "row"),
    Rule("*.experts.*.up.weight", "experts", inner="column"),
    Rule("*.experts.down", "experts", inner="row"),
    Rule("*embed_tokens.weight", "vocab"),
    Rule("lm_head.weight", "vocab"),
    Rule("*", "replicate"),
)
"""What cuts it."""


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: str = "F32",
    files: int = 1,
    seed: int = 0,
) -> dict[str, tuple[str, Array]]:
    """Write a checkpoint of random bits into ``folder``, with an index when in several files.

    Returns:
        Every tensor by name, as (dtype, array).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        name: random_bits(dtype, shape, seed + number)
        for number, (name, shape) in enumerate(shapes.items())
    }
    if files == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return tensors
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        own = names[number * len(names) // files : (number + 1) * len(names) // files]
        (folder / file).write_bytes(safetensors_bytes({name: tensors[name] for name in own}))
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


class MemoryStore(CountingStore):
    """A folder of small objects in memory; ``log`` has every request as (operation, key).

    For reading: what writes in parts goes to a real store in tests.
    """

    uri = "memory://model"

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        super().__init__()
        self.objects = dict(objects)
        self.log: list[tuple[str, str]] = []

    @classmethod
    def of_folder(cls, folder: Path) -> MemoryStore:
        """The files of ``folder``."""
        return cls({path.name: path.read_bytes() for path in folder.iterdir()})

    def _request(self, operation: str, key: str, received: int = 0) -> None:
        self.count(requests=1, received=received)
        self.log.append((operation, key))

    def _info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(f"{self.uri}/{key} is not there")
        return ObjectInfo(key, len(self.objects[key]), f"crc:{crc32(self.objects[key]):08x}")

    def require_root(self) -> None:
        """It is there."""

    def describe(self, key: str) -> ObjectInfo:
        """Describe one object."""
        self._request("describe", key)
        return self._info(key)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Describe all objects under ``prefix``."""
        self._request("list", prefix)
        return [self._info(key) for key in sorted(self.objects) if key.startswith(prefix)]

    def folders(self) -> Sequence[str]:
        """Names of what comes before the first slash of the keys."""
        self._request("folders", "")
        return sorted({key.partition("/")[0] for key in self.objects if "/" in key})

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        """Read an object whole."""
        self._request("read", key, self._info(key).size)
        return self.objects[key]

    def read_head(self, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
        """Describe an object and read its beginning."""
        self.log.append(("read_head", key))
        info = self._info(key)
        self.count(requests=1, received=min(info.size, limit))
        return info, self.objects[key][:limit]

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Fill ``into`` from ``start`` on."""
        self._request("read_range", key, len(into))
        into[:] = self.objects[key][start : start + len(into)]

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object."""
        self._request("write", key)
        if if_absent and key in self.objects:
            return False
        self.objects[key] = data
        return True

    def open_writer(self, key: str, size: int, part_bytes: int) -> ObjectWriter:
        """Not needed of a source."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Forget one object."""
        self._request("delete", key)
        self.objects.pop(key, None)

    def drop_unfinished(self) -> None:
        """Nothing is ever under way."""
