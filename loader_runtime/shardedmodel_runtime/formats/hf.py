"""Conventions of a Hugging Face checkpoint folder: its configuration and its index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shardedmodel_runtime.errors import CheckpointError, InvalidIndex, excerpt
from shardedmodel_runtime.formats.layers import LayerHeads, Overrides, overrides_in
from shardedmodel_runtime.formats.quantisation import Quantisation, parse_quantisation
from shardedmodel_runtime.formats.strict_json import parse_object

CONFIG_KEY = "config.json"
INDEX_KEY = "model.safetensors.index.json"
SINGLE_KEY = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Files that only Python's pickle can read, which runs whatever code they hold."""

CONFIG_BYTES_LIMIT = 4 * 1024 * 1024
"""Published configurations are a few KiB; label maps reach some hundred."""
INDEX_BYTES_LIMIT = 64 * 1024 * 1024
"""300,000 tensors at some 200 bytes, where the largest published indexes are 10 MB; parsed, it
takes a few times that, which has to fit the pre-sharder's 512 MiB."""
MAX_MODEL_TYPE_LENGTH = 128
"""A few times the longest ``model_type`` of transformers; it is shown in manifests and messages."""
MAX_HEADS = 65536
"""No published model has a thousand heads; bounds what arithmetic is done with the number."""
MAX_WIDTH = 2**24
"""Widest hidden state or head: hundreds of times the widest published."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What planning needs of ``config.json``; 0 where the configuration does not say.

    ``layers`` are those whose heads are not the model's.
    """

    model_type: str
    hidden_size: int = 0
    attention_heads: int = 0
    key_value_heads: int = 0
    head_dim: int = 0
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = False
    layers: tuple[LayerHeads, ...] = ()
    quantisation: Quantisation | None = None


def parse_config(data: bytes) -> ModelConfig:
    """Read ``config.json``; nested configurations answer what the top level does not say.

    Raises:
        CheckpointError: not JSON, no ``model_type``, or head counts that cannot be.
    """
    fields = _json_object(data, CONFIG_KEY)
    model_type = fields.get("model_type")
    if model_type is None or model_type == "":
        raise CheckpointError(f"{CONFIG_KEY}: model_type is missing; it names the architecture")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{CONFIG_KEY}: model_type {excerpt(repr(model_type))} is not a word")
    if len(model_type) > MAX_MODEL_TYPE_LENGTH or not model_type.isprintable():
        raise CheckpointError(f"{CONFIG_KEY}: model_type {excerpt(model_type)!r} is not a word")
    sources = [fields, *_nested(fields)]

    def number(most: int, *names: str) -> int:
        for source in sources:
            for name in names:
                # 0 stands for "not said" in configurations of models without a single width.
                if source.get(name) is not None and (name, source[name]) != ("head_dim", 0):
                    return _count(name, source[name], most)
        return 0

    def said(name: str) -> Any:
        return next((source[name] for source in sources if name in source), None)

    heads = number(MAX_HEADS, *_HEADS)
    key_value = _single_key_value(fields) or number(MAX_HEADS, *_KEY_VALUE_HEADS) or heads
    _need_groups(heads, key_value)
    hidden = number(MAX_WIDTH, "hidden_size", "n_embd", "d_model", "dim")
    head_dim = number(MAX_WIDTH, "head_dim", "d_kv") or (hidden // heads if heads else 0)
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=key_value,
        head_dim=head_dim,
        # Left out of config.json where it is the default of the model's class, mostly true; where
        # it is wrongly taken for true, a head of its own in the checkpoint says otherwise.
        tie_word_embeddings=said("tie_word_embeddings") is not False,
        is_encoder_decoder=fields.get("is_encoder_decoder") is True,
        layers=tuple(_own_heads(sources, LayerHeads(0, heads, key_value, head_dim))),
        quantisation=next(filter(None, map(parse_quantisation, sources)), None),
    )


def _own_heads(sources: Iterable[Mapping[str, Any]], common: LayerHeads) -> Iterator[LayerHeads]:
    """The heads of each layer that has others than ``common``."""
    for layer, own in overrides_in(sources).items():
        heads = _said(own, "num_attention_heads", MAX_HEADS) or common.attention_heads
        key_value = _said(own, "num_key_value_heads", MAX_HEADS) or common.key_value_heads
        head_dim = _said(own, "head_dim", MAX_WIDTH) or common.head_dim
        _need_groups(heads, key_value)
        found = LayerHeads(layer, heads, key_value, head_dim)
        if found[1:] != common[1:]:
            yield found


def _said(own: Overrides, name: str, most: int) -> int:
    return 0 if own.get(name) is None else _count(name, own[name], most)


def _need_groups(heads: int, key_value: int) -> None:
    if key_value and heads % key_value:
        raise CheckpointError(
            f"{CONFIG_KEY}: num_key_value_heads {key_value} does not divide "
            f"num_attention_heads {heads}"
        )


_HEADS = (
    "num_attention_heads",
    "n_head",
    "num_heads",
    "n_heads",
    "decoder_attention_heads",
)
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads")
_NESTED = (
    "text_config",
    "thinker_config",
    "vlm_config",
    "decoder",
    "attn_config",
    "encoder_config",
    "esmc_config",
)
"""Where composite models, and DBRX, keep what others have at the top."""


def _nested(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in _NESTED:
        inside = fields.get(name)
        if isinstance(inside, dict):
            yield inside
            further = inside.get("text_config")
            if isinstance(further, dict):
                yield further


def _single_key_value(fields: Mapping[str, Any]) -> int:
    """1 where all queries share one head; Falcon has a number beside it that says nothing then."""
    is_shared = fields.get("multi_query") is True and not fields.get("new_decoder_architecture")
    return int(is_shared)


def parse_index(data: bytes) -> dict[str, str]:
    """Read ``model.safetensors.index.json``: the file of each tensor.

    Raises:
        InvalidIndex: not JSON, no ``weight_map``, or a file name that leaves the folder.
    """
    try:
        fields = _json_object(data, INDEX_KEY)
    except CheckpointError as e:
        raise InvalidIndex(e.message) from e
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidIndex(f"{INDEX_KEY}: weight_map is missing or empty")
    plain: set[str] = set()
    for tensor, file in weight_map.items():
        if isinstance(file, str) and (file in plain or _plain_file_name(file)):
            plain.add(file)
        else:
            raise InvalidIndex(
                f"{INDEX_KEY}: tensor {excerpt(tensor)!r} lies in {excerpt(repr(file))}, which is "
                "not the name of a .safetensors file beside the index"
            )
    return weight_map


def check_index(weight_map: Mapping[str, str], found: Mapping[str, Iterable[str]]) -> None:
    """Hold an index against the tensors that the files really have (by file name).

    Raises:
        InvalidIndex: a tensor is missing from its file, or lies in a file the index does not say.
    """
    pairs = [(tensor, file) for file, tensors in found.items() for tensor in tensors]
    if len(pairs) == len(weight_map) and all(weight_map.get(t) == file for t, file in pairs):
        return  # as almost always; else sets say what differs
    placed, said = set(pairs), set(weight_map.items())
    for tensor, file in sorted(said - placed):
        raise InvalidIndex(f"{INDEX_KEY}: {excerpt(file)} has no tensor {excerpt(tensor)!r}")
    for tensor, file in sorted(placed - said):
        raise InvalidIndex(
            f"{excerpt(file)}: tensor {excerpt(tensor)!r} is "
            + ("said to lie elsewhere by" if tensor in weight_map else "missing from")
            + f" {INDEX_KEY}"
        )


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_object(data)
    except ValueError as e:
        raise CheckpointError(f"{name}: {excerpt(str(e))}") from e


def _count(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise CheckpointError(
            f"{CONFIG_KEY}: {name}: {excerpt(repr(value))} is not a whole number from 1 to {most}"
        )
    return value


def _plain_file_name(file: str) -> bool:
    return (
        file.endswith(".safetensors")
        and file.isprintable()
        and not file.startswith(".")
        and not set(file) & {"/", "\\"}
    )
