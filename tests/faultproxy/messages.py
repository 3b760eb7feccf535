"""HTTP/1.1 messages, as far as reads of an S3 server need them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import BinaryIO, Self
from urllib.parse import parse_qsl, urlsplit

HEAD_LINES = 200
"""More lines than any head has: a peer that sends more is not answered."""


@dataclass(frozen=True)
class Head:
    """First line and headers, as they came: the proxy changes no byte that it need not."""

    line: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, stream: BinaryIO) -> Self | None:
        """Read one; None at the end of the stream."""
        first = stream.readline()
        if not first.endswith(b"\r\n"):
            return None
        headers: list[tuple[str, str]] = []
        for _ in range(HEAD_LINES):
            line = stream.readline().decode("latin-1").rstrip("\r\n")
            if not line:
                break
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        return cls(first.decode("latin-1").rstrip("\r\n"), tuple(headers))

    def get(self, name: str) -> str:
        """Give a header's value; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def having(self, name: str, value: str) -> Self:
        """Give the head with one header changed or added."""
        kept = tuple(item for item in self.headers if item[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def without(self, name: str) -> Self:
        """Give the head without one header."""
        kept = tuple(item for item in self.headers if item[0].lower() != name.lower())
        return replace(self, headers=kept)

    def to_bytes(self) -> bytes:
        """Give it as it goes over the wire."""
        lines = [self.line, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Request:
    """One request without a body: a read."""

    head: Head

    @property
    def method(self) -> str:
        """``GET`` or ``HEAD``."""
        return self.head.line.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The address without its query, which may hold a signature with the time."""
        return self.head.line.split(" ")[1].partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the path: the signature of a presigned URL."""
        return dict(parse_qsl(urlsplit(self.head.line.split(" ")[1]).query))

    @property
    def signed_at(self) -> datetime:
        """The time that its signature names: in a header, or in the address of a presigned URL."""
        text = self.head.get("X-Amz-Date") or self.query["X-Amz-Date"]
        return datetime.strptime(text, "%Y%m%dT%H%M%S%z")

    @property
    def signed_in(self) -> str:
        """The region that its signature names, in either place."""
        _, _, named = self.head.get("Authorization").partition("Credential=")
        return (named or self.query["X-Amz-Credential"]).split("/")[2]

    @property
    def identity(self) -> str:
        """What is asked for: the same at each repetition."""
        return f"{self.method} {self.path} {self.head.get('Range')}"


@dataclass(frozen=True)
class Response:
    """One answer with its whole body, whose length the head tells."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self.head.line.split(" ")[1])

    @property
    def date(self) -> datetime:
        """When the server answered, by its clock."""
        return parsedate_to_datetime(self.head.get("Date"))

    @classmethod
    def read(cls, stream: BinaryIO, method: str) -> Self:
        """Read one; chunks are put together, and the head tells their length then.

        Raises:
            ConnectionError: the server ended the connection before.
        """
        head = Head.read(stream)
        if head is None:
            raise ConnectionError("the server ended the connection")
        if method == "HEAD" or head.line.split(" ")[1] in ("204", "304"):
            return cls(head, b"")
        if head.get("Transfer-Encoding").lower() == "chunked":
            body = b"".join(_chunks(stream))
            head = head.without("Transfer-Encoding").having("Content-Length", str(len(body)))
            return cls(head, body)
        size = int(head.get("Content-Length") or 0)
        body = stream.read(size)
        if len(body) != size:
            raise ConnectionError("the server ended the connection in the middle of a body")
        return cls(head, body)


def _chunks(stream: BinaryIO) -> list[bytes]:
    chunks: list[bytes] = []
    while size := int(stream.readline().partition(b";")[0], 16):
        chunks.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass  # trailers
    return chunks


def error_response(status: int, phrase: str, code: str) -> Response:
    """Give S3's answer for an error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    head = Head(
        f"HTTP/1.1 {status} {phrase}",
        (("Content-Type", "application/xml"), ("Content-Length", str(len(body)))),
    )
    return Response(head, body.encode())
