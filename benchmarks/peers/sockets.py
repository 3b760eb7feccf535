"""The limit of servers: plain sockets."""

from __future__ import annotations

import http.client
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from benchmarks.peers.task import Load, Task, buffers, fill


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
    into = buffers(task, prefault)
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
                _receive(connection, into[number][start:stop])

    def load() -> object:
        work = list(task.ranges())
        with ThreadPoolExecutor(task.threads) as pool:
            list(pool.map(read, [work[first :: task.threads] for first in range(task.threads)]))
        return into

    return load


def _receive(connection: socket.socket, into: memoryview) -> None:
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 206"):
        raise http.client.HTTPException(head.decode("latin-1"))
    into[: len(rest)] = rest
    fill(into[len(rest) :], connection.recv_into)
