"""What the pre-sharder is compared with: the plain way, and merely copying the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import obstore
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from obstore.store import S3Store as RustStore
from safetensors import safe_open
from safetensors.torch import save_file

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import LocalPiece
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.storage.opening import open_store
from tests.s3server import S3Server

PART_BYTES = 16 * 1024 * 1024
"""Of uploads: as large as the pre-sharder's own parts can be."""
THREADS = 8
"""Parts on their way at once, as loaders are compared with."""


def plain_way(checkpoint: Path, ranks: int, folder: Path) -> Iterator[Path]:
    """Cut a checkpoint as one would by hand: rank by rank, slice by slice, ``save_file``.

    Args:
        checkpoint: folder of a single ``model.safetensors``.
        ranks: tensor parallelism.
        folder: where the rank's file goes; the next one replaces it in the caller's hands.

    Yields:
        Each rank's file.
    """
    with open_store(checkpoint.as_uri()) as store:
        metadata = CheckpointMetadata.read(store)
    plan = WeightDistributor(Parallelism(ranks)).plan(metadata)
    for rank in range(ranks):
        tensors = {}
        with safe_open(checkpoint / "model.safetensors", "pt") as source:
            for name, cut in plan.cuts.items():
                index = _index(cut.piece(rank), len(cut.shape))
                tensors[name] = source.get_slice(name)[index].contiguous()
        path = folder / f"rank-{rank}.safetensors"
        save_file(tensors, path, {"format": "pt"})
        yield path


def _index(piece: LocalPiece, dims: int) -> tuple[slice, ...]:
    """A piece of one range as an index; the benchmark's model has no others."""
    index = [slice(None)] * dims
    for part in piece.slices:
        [(start, stop)] = part.ranges
        index[part.dim] = slice(start, stop)
    return tuple(index)


@contextmanager
def transfer_manager(server: S3Server) -> Iterator[Any]:
    """boto3's own parallel uploader, without checksums and signatures that nobody asked for."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            max_pool_connections=THREADS,
            request_checksum_calculation="when_required",
        ),
    )
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=THREADS
    )
    with create_transfer_manager(client, config) as manager:
        yield manager


def copy_with_boto3(server: S3Server, files: Sequence[Path], bucket: str) -> None:
    """Upload files side by side."""
    with transfer_manager(server) as manager:
        uploads = [manager.upload(str(path), bucket, _key(path)) for path in files]
        for upload in uploads:
            upload.result()


def copy_with_obstore(server: S3Server, files: Sequence[Path], bucket: str) -> None:
    """Upload files one after the other, the parts of each side by side, in Rust."""
    store = RustStore(
        bucket,
        endpoint=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    for path in files:
        obstore.put(store, _key(path), path, chunk_size=PART_BYTES, max_concurrency=THREADS)


def plain_way_to_s3(server: S3Server, checkpoint: Path, ranks: int, bucket: str, at: Path) -> None:
    """The plain way, each rank's file uploaded before the next is cut."""
    for path in plain_way(checkpoint, ranks, at):
        copy_with_boto3(server, [path], bucket)
        path.unlink()


def _key(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


Copy = Callable[[S3Server, Sequence[Path], str], None]
COPIES: dict[str, Copy] = {"boto3": copy_with_boto3, "obstore": copy_with_obstore}
