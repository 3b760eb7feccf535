"""Loads under faults: what became of each, and whether every byte of every tensor is right."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from shardedmodel_runtime.errors import ShardedModelError
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.rank_layout import BLOCK_BYTES, Layout, raw, write_layout
from tests.faultproxy.faults import Kind
from tests.faultproxy.proxy import Proxy
from tests.faultproxy.schedule import Plan
from tests.s3server import S3Server

WORLD_SIZE = 2
ROWS = 4096
"""Of the model's matrix: each rank holds 0.4 MB, in a hundred blocks."""
RANGE_BYTES = 2 * BLOCK_BYTES
"""Two blocks in a read, so that a bad one is read again alone."""
READ_TIMEOUT_SECONDS = 0.5
"""Patience of the tests' client with a stalled connection."""
DEADLINE_SECONDS = 30.0
"""Of a load, which takes a second."""
CLOCK_ERROR = timedelta(hours=2)
"""By which the client's clock is late where clocks are the fault."""
HANG_SECONDS = DEADLINE_SECONDS + 10
"""A load that has not ended by then hangs."""
OTHER_HASH = "fedcba9876543210fedc"
"""Of the layout whose manifest is answered instead."""

PASSING = (
    Kind.FLIPPED_BIT,
    Kind.OTHER_BYTES,
    Kind.SHORT_BODY,
    Kind.EARLY_CLOSE,
    Kind.RESET,
    Kind.RESET_AT_ONCE,
    Kind.ERROR_500,
    Kind.SLOW_DOWN,
    Kind.WRONG_RANGE,
    Kind.RANGE_IGNORED,
    Kind.WRONG_LENGTH,
    Kind.GARBAGE,
    Kind.MALFORMED_HEADER,
    Kind.STALL,
    Kind.STALL_AT_ONCE,
)
"""Faults that pass: a load recovers from them."""
STALLS = (Kind.STALL, Kind.STALL_AT_ONCE)
"""Each takes the client's whole patience, so that there are fewer of them."""
_SHARES = {
    Kind.STALL: 0.1,
    Kind.STALL_AT_ONCE: 0.1,
    # What is left of a range is another request: it may meet a fault again, up to the attempts
    # that a range has.
    Kind.SHORT_BODY: 0.25,
    Kind.EARLY_CLOSE: 0.25,
    Kind.RESET: 0.25,
}
"""Of requests that meet a fault, where it is not about every second."""


@dataclass
class Tally:
    """What became of the faults of one kind."""

    recovered: int = 0
    """Faults of loads that hold every tensor, right to the bit."""
    ended: int = 0
    """Faults of loads that ended in a named error: the one that ended it, and those before."""
    loads: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Loads that ended, by the reason of their error."""

    @property
    def injected(self) -> int:
        """All faults."""
        return self.recovered + self.ended

    def add(self, injected: int, reason: str) -> None:
        """Count one load; an empty reason means that it recovered."""
        self.loads += 1
        if reason:
            self.ended += injected
            self.errors[reason] += 1
        else:
            self.recovered += injected


@dataclass(frozen=True)
class Bench:
    """A layout on a real server, behind a proxy."""

    proxy: Proxy
    layout: Layout
    uri: str
    server: S3Server

    def store(
        self,
        clock: ServerClock | None = None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> S3Store:
        """Open the layout as a loader does, but with little patience."""
        return S3Store(
            parse_uri(self.uri),
            StoreOptions(self.proxy.endpoint_url, credentials=self._credentials),
            RetryPolicy(base_seconds=0.002, max_seconds=0.01),
            read_timeout_seconds,
            clock,
        )

    def load(self, plan: Plan, rank: int) -> str:
        """Load one rank under faults.

        Returns:
            The reason of the named error that it ended in; empty: it holds every tensor.

        Raises:
            AssertionError: the load hangs, ended in an error without a name, or holds a wrong byte.
        """
        ended = self.ended(plan, rank)
        if isinstance(ended, LoadedShard):
            return ""
        assert isinstance(ended, ShardedModelError), f"{plan}: {ended!r}"
        return ended.reason

    def ended(
        self, plan: Plan, rank: int, read_timeout_seconds: float = READ_TIMEOUT_SECONDS
    ) -> LoadedShard | Exception:
        """Load one rank under faults; gives what it ended in.

        Raises:
            AssertionError: the load hangs, or holds a wrong byte.
        """
        self.proxy.use(plan)
        clock = _wrong_clock() if Kind.CLOCK_SKEW in plan.kinds else None
        with closing(self.store(clock, read_timeout_seconds)) as store:
            ended = _within(
                HANG_SECONDS, DistributedCheckpointLoader(self._config(rank), store=store)
            )
        if isinstance(ended, LoadedShard):
            assert_right(ended.state_dict, self.layout.expected[rank])
        return ended

    @property
    def _credentials(self) -> Credentials:
        return Credentials(self.server.access_key, self.server.secret_key)

    def _config(self, rank: int) -> ModelLoadConfig:
        return ModelLoadConfig(
            layout=self.uri,
            endpoint_url=self.proxy.endpoint_url,
            world_size=WORLD_SIZE,
            rank=rank,
            device="cpu",
            concurrency=8,
            range_bytes=RANGE_BYTES,
            deadline_seconds=DEADLINE_SECONDS,
        )


@contextmanager
def bench(
    server: S3Server, folder: Path, bucket: str = "faults", world_size: int = WORLD_SIZE
) -> Iterator[Bench]:
    """Put a layout on the server, and a proxy before it; a schedule depends on the keys."""
    layout = write_layout(folder / "layout", world_size, _model(1))
    prefix = layout.manifest.layout_hash
    other = write_layout(folder / "other", world_size, _model(2)).manifest
    other = other.model_copy(update={"layout_hash": OTHER_HASH})
    with ExitStack() as stack:
        client = stack.enter_context(closing(server.client()))
        client.create_bucket(Bucket=bucket)
        for path in (path for path in layout.folder.rglob("*") if path.is_file()):
            key = f"{prefix}/{path.relative_to(layout.folder)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        proxy = stack.enter_context(Proxy(server.endpoint_url, other_manifest=other.to_bytes()))
        yield Bench(proxy, layout, f"s3://{bucket}/{prefix}", server)


def run(bench: Bench, faults: int, seed: int = 0) -> dict[Kind, Tally]:
    """Load under each kind of fault until at least ``faults`` of it were injected.

    Kinds that take a client's whole patience come a tenth as often.
    """
    tallies: dict[Kind, Tally] = {}
    for kind in Kind:
        tally = tallies.setdefault(kind, Tally())
        wanted = -(-faults // 10) if kind in STALLS or kind not in PASSING else faults
        for attempt in range(wanted):
            if tally.injected >= wanted:
                break
            plan = _plan(kind, seed + attempt)
            reason = bench.load(plan, attempt % WORLD_SIZE)
            tally.add(bench.proxy.injected[kind], reason)
    return tallies


def table(tallies: dict[Kind, Tally]) -> str:
    """Write Markdown of what became of the faults."""
    rows = [
        "| fault | injected | recovered | ended | loads | named errors of loads |",
        "|---|---:|---:|---:|---:|---|",
    ]
    whole = Tally()
    for kind, tally in tallies.items():
        rows.append(_row(kind, tally))
        whole.recovered += tally.recovered
        whole.ended += tally.ended
        whole.loads += tally.loads
        whole.errors += tally.errors
    return "\n".join([*rows, _row("**all**", whole)])


def _row(name: str, tally: Tally) -> str:
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.errors.items()))
    figures = (tally.injected, tally.recovered, tally.ended, tally.loads)
    return f"| {name} | {' | '.join(map(str, figures))} | {named or 'none'} |"


def assert_right(held: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare every tensor, byte for byte."""
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        assert raw(held[name]) == raw(tensor), f"{name} holds wrong bytes"


def _plan(kind: Kind, seed: int) -> Plan:
    if kind is Kind.REPLACED:
        return Plan(seed, (kind,), share=1.0, burst=None)
    if kind in (Kind.CLOCK_SKEW, Kind.OTHER_REGION):
        return Plan(seed, (kind,), share=1.0, burst=None, suffix="")
    if kind is Kind.OTHER_MANIFEST:
        return Plan(seed, (kind,), share=1.0, burst=None, suffix="manifest.json")
    return Plan(seed, (kind,), share=_SHARES.get(kind, 0.45))


def _wrong_clock() -> ServerClock:
    return ServerClock(lambda: datetime.now(UTC) - CLOCK_ERROR)


def _model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "column.weight": torch.randn(ROWS, 48, generator=generator),
        "column.bias": torch.randn(ROWS, generator=generator).to(torch.bfloat16),
        "norm.weight": torch.randn(48, generator=generator),
    }


def _within(seconds: float, loader: DistributedCheckpointLoader) -> LoadedShard | Exception:
    """Load in a thread, so that a load that hangs is told and not waited for."""
    results: list[LoadedShard | Exception] = []

    def target() -> None:
        try:
            results.append(loader.load())
        except Exception as error:  # noqa: BLE001 - every error is judged by the caller
            results.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, f"the load hangs: it has not ended after {time.monotonic() - began:.0f} s"
    return results[0]
