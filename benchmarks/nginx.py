"""A web server that costs almost nothing: nginx with sendfile, with and without TLS.

On a machine of two cores an S3 server is the bound of every client. What nginx serves shows the
clients' own bounds: it answers ranged GETs of files as an S3 server answers those of objects, and
minds no signature.
"""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.link import Link
from tests.devcluster import packages
from tests.s3server import free_ports

START_SECONDS = 10.0
"""Longest wait for its first answer, on a machine that is not idle."""

_CONFIGURATION = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
user root;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    root {root};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen {host}:{plain}; }}
    server {{
        listen {host}:{tls} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
    }}
}}
"""


class Nginx:
    """Serves ``root`` until it is stopped, by its own process id.

    Args:
        root: whose folders are buckets.
        folder: for its certificate and logs.
        link: at whose far end it serves; None: on loopback.
    """

    def __init__(self, root: Path, folder: Path, link: Link | None = None) -> None:
        self._root = root
        self._folder = folder
        self._host = link.address if link else "127.0.0.1"
        self._inside = link.inside if link else ()
        self._plain, self._tls = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def plain_url(self) -> str:
        """Its address without TLS."""
        return f"http://{self._host}:{self._plain}"

    @property
    def tls_url(self) -> str:
        """Its address with TLS."""
        return f"https://{self._host}:{self._tls}"

    @property
    def certificate(self) -> Path:
        """What its clients have to trust."""
        return self._folder / "cert.pem"

    def __enter__(self) -> Self:
        packages.ensure(("nginx", "openssl"), print)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        configuration = self._folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self._folder,
                root=self._root,
                host=self._host,
                plain=self._plain,
                tls=self._tls,
            )
        )
        self._process = subprocess.Popen([*self._inside, "nginx", "-c", str(configuration)])
        self._wait_until_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def _make_certificate(self) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", f"/CN={self._host}", "-addext", f"subjectAltName=IP:{self._host}"),
                *("-keyout", str(self._folder / "key.pem"), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(self.plain_url).close()
                return
            except urllib.error.HTTPError as answer:
                answer.close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
