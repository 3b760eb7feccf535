"""Other libraries that read objects from S3."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.task import RANGE_BYTES, THREADS, Load, Task, buffers, fill


def runai(task: Task) -> Load:
    """runai-model-streamer, from S3 or files."""
    os.environ["RUNAI_STREAMER_S3_ENDPOINT"] = task.endpoint_url
    os.environ["AWS_ENDPOINT_URL"] = task.endpoint_url
    os.environ["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] = "0"
    os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(THREADS)
    if not task.endpoint_url:
        for name in ("RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL"):
            del os.environ[name]
    from runai_model_streamer import SafetensorsStreamer

    def load() -> object:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(task.uris if task.endpoint_url else task.paths)
            return dict(streamer.get_tensors())

    return load


def s3torchconnector(task: Task) -> Load:
    """s3torchconnector's reader, one object after the other, into one buffer for each."""
    from s3torchconnector import S3Checkpoint, S3ClientConfig

    config = S3ClientConfig(force_path_style=True, part_size=RANGE_BYTES)
    checkpoint = S3Checkpoint("us-east-1", endpoint=task.endpoint_url, s3client_config=config)

    def load() -> object:
        buffers = []
        for uri, size in zip(task.uris, task.sizes, strict=True):
            buffer = memoryview(mmap.mmap(-1, size))
            with checkpoint.reader(uri) as reader:
                filled = 0
                while filled < size:
                    filled += reader.readinto(buffer[filled:])
            buffers.append(buffer)
        return buffers

    return load


def boto3(task: Task) -> Load:
    """boto3's ``get_object``, ranges in threads, ``readinto`` where the bytes stay."""
    import boto3 as library
    from botocore.config import Config

    client = library.client(
        "s3",
        endpoint_url=task.endpoint_url,
        region_name="us-east-1",
        verify=task.certificate or None,
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=THREADS,
            response_checksum_validation="when_required",
        ),
    )

    def fetch(key: str, start: int, into: memoryview) -> None:
        span = f"bytes={start}-{start + len(into) - 1}"
        answer = client.get_object(Bucket=task.bucket, Key=key, Range=span)
        fill(into, answer["Body"].readinto)

    return lambda: _in_threads(task, fetch)


def obstore(task: Task) -> Load:
    """Obstore's ``get_range`` in threads, and a copy to where the bytes stay."""
    import obstore as library
    from obstore.store import S3Store

    store = S3Store(
        task.bucket,
        endpoint=task.endpoint_url,
        region="us-east-1",
        virtual_hosted_style_request=False,
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "allow_invalid_certificates": True},
    )

    def fetch(key: str, start: int, into: memoryview) -> None:
        into[:] = memoryview(library.get_range(store, key, start=start, length=len(into)))

    return lambda: _in_threads(task, fetch)


def _in_threads(task: Task, fetch: Callable[[str, int, memoryview], None]) -> object:
    into = buffers(task)

    def run(span: tuple[int, int, int]) -> None:
        number, start, stop = span
        fetch(f"{task.prefix}/{task.keys[number]}", start, into[number][start:stop])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, task.ranges()))
    return into
