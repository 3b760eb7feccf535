"""What one rank's load is told: one validated, immutable configuration."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shardedmodel_runtime.errors import ConfigurationError, excerpt, first_problem, meant
from shardedmodel_runtime.parallelism import MAX_GROUP_RANKS
from shardedmodel_runtime.storage.uri import last_part

DEFAULT_CONCURRENCY = 64
"""Most ranged reads in flight: one S3 connection gives some 85 MB/s, so as many fill a 40 Gb/s
link. How many really are in flight follows from what the link gives."""
MAX_CONCURRENCY = 256
"""More threads than this only queue: 256 connections are beyond any link a rank has."""
DEFAULT_RANGE_BYTES = 16 * 1024 * 1024
"""One ranged read: a block of the layout, and a part of the multipart upload that wrote it."""

MAX_SECONDS = 30 * 86400.0
"""Longest time that may be asked for: a month, which is as good as for ever, and less than what
the system's timers take."""
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]

Device = Literal["auto", "cpu", "cuda"]


def _absolute(path: str) -> str:
    if path and not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


Folder = Annotated[str, Field(max_length=1024), AfterValidator(_absolute)]


class Options(BaseModel):
    """Base of configurations: immutable, and what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``.

        Raises:
            ConfigurationError: names the first field that is wrong, its value, and how.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            field, message, given = first_problem(error)
            if field and field not in cls.model_fields:
                known = f"there are {', '.join(cls.model_fields)}"
                message = f"is not a field; {meant(field, cls.model_fields, known)}"
            where = f"{field}: {excerpt(repr(given), 80)}: " if field else ""
            raise ConfigurationError(f"{where}{message}") from error


class ModelLoadConfig(Options):
    """One rank's load of one layout.

    Raises:
        pydantic.ValidationError: a field is unknown or out of its range; ``parse`` raises
            ``ConfigurationError`` instead.
    """

    layout: str = Field(min_length=1, max_length=1024)
    """URI of the layout, ``<storage uri>/<layout hash>``: ``s3://…`` or ``file:///…``."""

    endpoint_url: str = ""
    """An S3-compatible server; empty: AWS."""

    region: str = ""
    """S3 region; empty: what boto3's own chain finds."""

    world_size: int = Field(default=1, ge=1, le=MAX_GROUP_RANKS)
    """Ranks of the group; must be what the layout was cut for."""

    rank: int = Field(default=0, ge=0)
    """Which of them this process is, from 0."""

    local_rank: int = Field(default=0, ge=0)
    """Its index among the node's ranks: the CUDA device that it uses."""

    device: Device = "auto"
    """Where the tensors end up; ``auto``: CUDA where torch finds a device, else the CPU."""

    concurrency: int = Field(default=DEFAULT_CONCURRENCY, ge=1, le=MAX_CONCURRENCY)
    """Most ranged reads in flight; there are fewer while more bring nothing, or the store asks."""

    range_bytes: int = Field(default=DEFAULT_RANGE_BYTES, ge=1)
    """Bytes of one ranged read, rounded down to whole blocks of the layout, at least one."""

    verify: bool = True
    """Check every block where it landed; False trusts store and network."""

    map_files: bool = True
    """Let tensors on the CPU be the pages of the files that hold them, where those lie on a file
    system of the node's own; False copies. Files of a layout are never modified in place."""

    deadline_seconds: Seconds | None = None
    """Longest time that the load may take, its manifest included; None: no limit beyond the store's
    own retries."""

    cache: Folder = ""
    """Folder on the node where verified objects stay for the next start and for peers; empty:
    none."""

    cache_bytes: int | None = Field(default=None, gt=0)
    """Most bytes of the cache, the least recently used of which give way; None: the disk's."""

    cache_peers: tuple[int, ...] = ()
    """Ranks for whose sake alone there is a cache: only what several of them hold goes into it,
    and nobody is told of its troubles. Empty: it keeps all that this rank loads."""

    share_common: bool = False
    """Read what several ranks hold once together, each a part, and exchange the parts over the
    process group. For ranks that begin together, as under torchrun."""

    @property
    def layout_hash(self) -> str:
        """The layout's name; see ``layout_hash_of``."""
        return layout_hash_of(self.layout)

    def deadline_from_now(self) -> float | None:
        """Give the ``time.monotonic()`` by which a load that begins now has to end; None: never.

        It is asked for once: what a load does first leaves the rest less time.
        """
        limit = self.deadline_seconds
        return None if limit is None else time.monotonic() + limit

    @model_validator(mode="after")
    def _cache_holds_what_was_verified(self) -> Self:
        if self.cache and not self.verify:
            raise ValueError("cache needs verify: only what was verified is kept")
        return self

    @model_validator(mode="after")
    def _a_size_is_that_of_a_cache(self) -> Self:
        if self.cache_bytes is not None and not self.cache:
            raise ValueError("cache_bytes is the size of a cache; name its folder with cache")
        return self

    @model_validator(mode="after")
    def _parts_are_not_cached(self) -> Self:
        if self.cache and self.share_common:
            raise ValueError("share_common reads parts of objects, and cache keeps whole ones")
        return self

    @model_validator(mode="after")
    def _rank_is_in_the_group(self) -> Self:
        if self.rank >= self.world_size:
            raise ValueError(
                f"rank: {self.rank} is not below world_size, {self.world_size}; ranks are counted "
                "from 0"
            )
        return self


def seconds_until(deadline: float | None) -> float | None:
    """Give what is left of a deadline, 0 once it has passed; None where there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def layout_hash_of(uri: str) -> str:
    """Give a layout's name: the last part of its address, as far as a report takes it."""
    return last_part(uri)[:64]
