"""Loaders to compare: each brings the same safetensors objects into host memory, whole.

``python -m benchmarks.peers`` reads lines of JSON, loader's name and task, and forks a process for
each: nothing is warm but imports and the server's page cache, and the peak of memory is the
loader's own. Clients, and the raw limit's buffer, are made before the clock starts.
"""

from __future__ import annotations

import http.client
import json
import mmap
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shardedmodel_runtime.memory import peak_memory_bytes

RANGE_BYTES = 16 * 1024 * 1024
"""Of every loader that lets one choose: the block of a layout."""
THREADS = 8
"""Of every loader that lets one choose; the raw limit takes its best number of threads."""
PAGE_BYTES = 4096
LIMIT_SECONDS = 90
"""Of one load; a loader that takes longer has failed."""


@dataclass(frozen=True)
class Task:
    """What is to be loaded.

    Args:
        layout: URI of the layout; its objects lie directly below.
        endpoint_url: of the server; empty for files.
        keys: of the objects, relative to the layout.
        sizes: of the objects in bytes.
        certificate: file that clients have to trust; empty without TLS.
        threads: for loaders that take their best number.
    """

    layout: str
    endpoint_url: str
    keys: list[str]
    sizes: list[int]
    certificate: str = ""
    threads: int = THREADS

    @property
    def uris(self) -> list[str]:
        """Addresses of the objects."""
        return [f"{self.layout}/{key}" for key in self.keys]

    @property
    def paths(self) -> list[str]:
        """Paths of the objects, for files."""
        return [uri.removeprefix("file://") for uri in self.uris]

    @property
    def bucket(self) -> str:
        """The layout's bucket."""
        return urlsplit(self.layout).netloc

    @property
    def prefix(self) -> str:
        """The layout's keys begin so."""
        return urlsplit(self.layout).path.lstrip("/")

    @property
    def total(self) -> int:
        """Bytes of all objects."""
        return sum(self.sizes)

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Every range: the object's number, where the range begins, and where it ends."""
        for number, size in enumerate(self.sizes):
            for start in range(0, size, RANGE_BYTES):
                yield number, start, min(start + RANGE_BYTES, size)


def evict(paths: Iterable[str]) -> None:
    """Take files out of the page cache, so that the next loader reads them there in its own way."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


Load = Callable[[], object]
"""Loads everything, and gives what holds it."""


def ours(task: Task, verify: bool = True) -> Load:
    """This project's loader."""
    from shardedmodel_runtime.loading.config import ModelLoadConfig
    from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader

    config = ModelLoadConfig(
        layout=task.layout, endpoint_url=task.endpoint_url, device="cpu", verify=verify
    )
    loader = DistributedCheckpointLoader(config)
    return lambda: loader.load().state_dict


def ours_unverified(task: Task) -> Load:
    """This project's loader, without checking blocks: what verification costs."""
    return ours(task, verify=False)


def ours_again(task: Task) -> Load:
    """This project's loader, into the memory of an earlier load: pages are there, as the limit's.

    The earlier load is not counted.
    """
    from shardedmodel_runtime.loading.config import ModelLoadConfig
    from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader

    config = ModelLoadConfig(
        layout=task.layout, endpoint_url=task.endpoint_url, device="cpu", map_files=False
    )
    held = DistributedCheckpointLoader(config).load()
    loader = DistributedCheckpointLoader(config)
    return lambda: loader.load(into=held).state_dict


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
        _fill(into, answer["Body"].readinto)

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


def raw_fresh(task: Task) -> Load:
    """Plain sockets, ``recv_into`` memory that is new, as every other loader's is."""
    return raw(task, prefault=False)


def raw(task: Task, prefault: bool = True) -> Load:
    """The limit: plain sockets, ``recv_into`` a buffer whose pages are there already."""
    import boto3 as library
    from botocore.config import Config

    client = library.client(
        "s3",
        endpoint_url=task.endpoint_url,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
    )
    server = urlsplit(task.endpoint_url)
    targets = [
        client.generate_presigned_url(
            "get_object", Params={"Bucket": task.bucket, "Key": f"{task.prefix}/{key}"}
        ).removeprefix(task.endpoint_url)
        for key in task.keys
    ]
    buffers = _buffers(task, prefault)
    context = ssl.create_default_context(cafile=task.certificate or None)

    def connect() -> socket.socket:
        plain = socket.create_connection((server.hostname, server.port))
        if server.scheme == "http":
            return plain
        return context.wrap_socket(plain, server_hostname=server.hostname)

    def read(work: list[tuple[int, int, int]]) -> None:
        with connect() as connection:
            for number, start, stop in work:
                request = (
                    f"GET {targets[number]} HTTP/1.1\r\nHost: {server.netloc}\r\n"
                    f"Range: bytes={start}-{stop - 1}\r\n\r\n"
                )
                connection.sendall(request.encode())
                _receive(connection, buffers[number][start:stop])

    def load() -> object:
        work = list(task.ranges())
        with ThreadPoolExecutor(task.threads) as pool:
            list(pool.map(read, [work[first :: task.threads] for first in range(task.threads)]))
        return buffers

    return load


def raw_file_fresh(task: Task) -> Load:
    """``preadv`` in two threads into memory that is new, as every other loader's is."""
    return raw_file(task, prefault=False)


def raw_file(task: Task, prefault: bool = True) -> Load:
    """The limit of files: ``preadv`` in two threads into a buffer whose pages are there already."""
    buffers = _buffers(task, prefault)
    files = [os.open(path, os.O_RDONLY) for path in task.paths]

    def read(span: tuple[int, int, int]) -> None:
        number, start, stop = span
        while start < stop:
            start += os.preadv(files[number], [buffers[number][start:stop]], start)

    def load() -> object:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, task.ranges()))
        return buffers

    return load


def safetensors(task: Task) -> Load:
    """Safetensors' own ``load_file``, and a touch of every page, without which nothing is read.

    Tensors of less than a page are not touched: it would take longer than to bring their page.
    """
    from safetensors.torch import load_file

    def load() -> object:
        tensors = {name: t for path in task.paths for name, t in load_file(path).items()}
        for tensor in tensors.values():
            if tensor.nbytes >= PAGE_BYTES:
                tensor.flatten()[:: PAGE_BYTES // tensor.element_size()].sum()
        return tensors

    return load


def fastsafetensors(task: Task) -> Load:
    """Fastsafetensors on the CPU."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: task.paths})

    def load() -> object:
        held = loader.copy_files_to_device()
        return held, {name: held.get_tensor(name) for name in loader.get_keys()}

    return load


LOADERS: dict[str, Callable[[Task], Load]] = {
    "ours": ours,
    "ours, unverified": ours_unverified,
    "ours, held memory": ours_again,
    "runai-model-streamer": runai,
    "s3torchconnector": s3torchconnector,
    "boto3": boto3,
    "obstore": obstore,
    "raw": raw,
    "raw, new memory": raw_fresh,
    "preadv": raw_file,
    "preadv, new memory": raw_file_fresh,
    "safetensors": safetensors,
    "fastsafetensors": fastsafetensors,
}


def _in_threads(task: Task, fetch: Callable[[str, int, memoryview], None]) -> object:
    buffers = _buffers(task)

    def run(span: tuple[int, int, int]) -> None:
        number, start, stop = span
        fetch(f"{task.prefix}/{task.keys[number]}", start, buffers[number][start:stop])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, task.ranges()))
    return buffers


def _buffers(task: Task, prefault: bool = False) -> list[memoryview]:
    buffers = [memoryview(mmap.mmap(-1, size)) for size in task.sizes]
    for buffer in buffers if prefault else ():
        buffer[::PAGE_BYTES] = bytes(len(buffer[::PAGE_BYTES]))
    return buffers


def _receive(connection: socket.socket, into: memoryview) -> None:
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 206"):
        raise http.client.HTTPException(head.decode("latin-1"))
    into[: len(rest)] = rest
    _fill(into[len(rest) :], connection.recv_into)


def _fill(into: memoryview, read: Callable[[memoryview], int]) -> None:
    while into:
        count = read(into)
        if count == 0:
            raise ConnectionError("the answer ended early")
        into = into[count:]


def measure(name: str, task: Task) -> dict[str, Any]:
    """Load once."""
    load = LOADERS[name](task)
    before = peak_memory_bytes()
    began = time.perf_counter()
    held = load()
    seconds = time.perf_counter() - began
    del held
    return {"seconds": seconds, "peakMemoryBytes": peak_memory_bytes(), "before": before}


def serve() -> None:
    """Measure what each line asks for, and answer with a line."""
    import shardedmodel_runtime.loading.loader
    import shardedmodel_runtime.storage.s3  # noqa: F401 - for all the processes to come

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_SECONDS)
            print(json.dumps(_answer(**json.loads(line))), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"error": f"ended with status {status}"}), flush=True)


def _answer(name: str, task: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environment)
    try:
        return measure(name, Task(**task))
    except Exception as error:  # noqa: BLE001 - a peer's failure is a result
        return {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    serve()
