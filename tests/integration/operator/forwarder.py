"""A link to the API server that can be cut: what is sent into it then is lost without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

CHUNK = 65536


class Forwarder:
    """Forwards TCP to the server of a kubeconfig, from a thread; ``kubeconfig`` leads to it."""

    def __init__(self, source: Path, target: Path) -> None:
        document = json.loads(source.read_text())
        self._server = urlsplit(document["clusters"][0]["cluster"]["server"])
        self._document = document
        self.kubeconfig = target
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._listening: asyncio.Server
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        self._listening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._forward, "127.0.0.1", 0), self._loop
        ).result()
        port = self._listening.sockets[0].getsockname()[1]
        self._document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        self.kubeconfig.write_text(json.dumps(self._document))
        self.kubeconfig.chmod(0o600)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Let nothing through any more; connections stay open."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """Let everything through again, also what waited."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _end(self) -> None:
        self._listening.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Lets the transports that were closed go.
        await asyncio.sleep(0.1)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._server.hostname, self._server.port
        there, back = await asyncio.open_connection(host, port)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
