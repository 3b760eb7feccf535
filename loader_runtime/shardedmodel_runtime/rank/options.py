"""What a rank pod is told: by its command line, and by its environment, read here alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.loading.config import (
    DEFAULT_CONCURRENCY,
    MAX_CONCURRENCY,
    Device,
    Folder,
    ModelLoadConfig,
    Options,
    Seconds,
    layout_hash_of,
)
from shardedmodel_runtime.parallelism import MAX_GROUP_RANKS
from shardedmodel_runtime.report import HTTP_PORT, MASTER_PORT

JOIN_TIMEOUT_SECONDS = 1800.0
"""How long a rank waits for its peers: the time that a rollout has by default, within which a
missing pod may still be scheduled; a rank that gives up loses its weights."""
LAUNCH_TIMEOUT_SECONDS = 300.0
"""How long ranks of one launcher wait for each other. torchrun starts those of all nodes together
once its agents have met, so what is between them is how long a slow disk takes to import torch."""
MAX_LOCAL_RANKS = 64
"""Ranks of one pod: four times the GPUs of today's largest nodes."""
_DEVICES: dict[str, Device] = {"auto": "auto", "gloo": "cpu", "nccl": "cuda"}
"""Where a backend's tensors are: NCCL moves CUDA tensors alone, gloo is for the CPU."""

Backend = Literal["auto", "gloo", "nccl"]
_ENTRYPOINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _function(text: str) -> str:
    if text and not _ENTRYPOINT.fullmatch(text):
        raise ValueError("is not package.module:function")
    return text


Entrypoint = Annotated[str, AfterValidator(_function)]


class RankOptions(Options):
    """What one rank pod runs; the same for all pods of a group."""

    layout: str = Field(min_length=1, max_length=1024)
    """URI of the layout."""

    endpoint_url: str = ""
    """An S3-compatible server; empty: AWS."""

    region: str = ""
    """S3 region; empty: what boto3's own chain finds."""

    world_size: int = Field(default=1, ge=1, le=MAX_GROUP_RANKS)
    """Ranks of the group."""

    local_ranks: int = Field(default=1, ge=1, le=MAX_LOCAL_RANKS)
    """Ranks of this pod, one process each."""

    backend: Backend = "auto"
    """Of the process group; ``auto``: NCCL where CUDA is, else gloo."""

    entrypoint: Entrypoint = ""
    """``package.module:function`` that gets the loaded shard; empty: the rank holds it."""

    port: int = Field(default=HTTP_PORT, ge=0, le=65535)
    """Of the report endpoints; 0: one that the system chooses."""

    termination_log: Path | None = None
    """File for the reason of a failure; empty: none."""

    concurrency: int = Field(default=DEFAULT_CONCURRENCY, ge=1, le=MAX_CONCURRENCY)
    """Most ranged reads in flight, of each rank."""

    cache: Folder = ""
    """Folder on the node where verified objects stay; see ``ModelLoadConfig``."""

    cache_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of the cache; None: what its disk holds."""

    cache_peers: tuple[int, ...] = ()
    """Ranks of this pod, when the cache is theirs alone; see ``ModelLoadConfig``."""

    deadline_seconds: Seconds | None = None
    """Longest time that the load of a rank may take; None: no limit beyond the store's retries."""

    join_timeout_seconds: Seconds = JOIN_TIMEOUT_SECONDS
    """How long a rank waits for its peers before it gives up."""

    @property
    def layout_hash(self) -> str:
        """The layout's name; see ``layout_hash_of``."""
        return layout_hash_of(self.layout)

    def load_config(self, rank: int, local_rank: int) -> ModelLoadConfig:
        """Say what one of the ranks loads."""
        return ModelLoadConfig.parse(
            {
                "layout": self.layout,
                "endpoint_url": self.endpoint_url,
                "region": self.region,
                "world_size": self.world_size,
                "rank": rank,
                "local_rank": local_rank,
                "device": _DEVICES[self.backend],
                "concurrency": self.concurrency,
                "cache": self.cache,
                "cache_bytes": self.cache_bytes,
                "cache_peers": self.cache_peers,
                "deadline_seconds": self.deadline_seconds,
            }
        )


class Place(Options):
    """Where a pod or process is: what the environment tells it."""

    pod: str = Field(default="", max_length=253)
    """Name of the pod; its ordinal tells which ranks it has."""

    pod_ip: str = ""
    """Address that peers see; empty: torch finds one by the host's name."""

    node: str = Field(default="", max_length=253)
    """Name of the node."""

    master_addr: str = "127.0.0.1"
    """Where rank 0 serves the group's store."""

    master_port: int = Field(default=MASTER_PORT, ge=1, le=65535)
    """TCP port of that store."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``POD_NAME POD_IP NODE_NAME MASTER_ADDR MASTER_PORT``; all may be missing.

        Raises:
            ConfigurationError: ``MASTER_PORT`` is not a port.
        """
        found = os.environ if environ is None else environ
        values = {
            "pod": found.get("POD_NAME"),
            "pod_ip": found.get("POD_IP"),
            "node": found.get("NODE_NAME"),
            "master_addr": found.get("MASTER_ADDR"),
            "master_port": found.get("MASTER_PORT"),
        }
        return cls.parse({name: value for name, value in values.items() if value})

    def first_rank(self, options: RankOptions) -> int:
        """Give the lowest of this pod's ranks: its ordinal times ranks per pod; 0 without a pod.

        Raises:
            ConfigurationError: the pod's name has no ordinal, or there are fewer ranks.
        """
        ordinal = self.pod.rpartition("-")[2] if self.pod else "0"
        if not (ordinal.isascii() and ordinal.isdigit()):
            raise ConfigurationError(
                f"POD_NAME: {excerpt(self.pod)!r} does not end in -<ordinal>; "
                "ranks run in the pods of a StatefulSet"
            )
        first = int(ordinal) * options.local_ranks
        if first + options.local_ranks > options.world_size:
            pod = f"pod {excerpt(self.pod)!r} with " if self.pod else ""
            raise ConfigurationError(
                f"--world-size: {options.world_size} has no place for "
                f"{pod}--local-ranks {options.local_ranks}"
            )
        return first
