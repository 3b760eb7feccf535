"""Keeps a rank in touch with its group, whatever the rank itself is doing.

One thread holds the connection to the store: it joins, beats, follows the group to its next
incarnation, and comes back when the store was away. On rank 0 it also puts together what all
ranks report. The rank's main thread loads weights meanwhile and asks here where the group is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardedmodel_runtime.errors import ConfigurationError, GroupError, excerpt
from shardedmodel_runtime.rank.group import name_ranks
from shardedmodel_runtime.rank.incarnations import Member, read_failure, read_lost, write_failure
from shardedmodel_runtime.rank.roster import Roster, read_arrivals, write_beat
from shardedmodel_runtime.rank.store import Address, DistError, Store, connect
from shardedmodel_runtime.report import RankReport

BEAT_SECONDS = 0.5
"""Between two exchanges with the store: the group follows a replaced rank within a second, and
rank 0 serves 1,024 ranks some 8,000 small calls a second."""
STALE_SECONDS = 5.0
"""Without an exchange for so long a rank does not call itself ready: ten beats."""

LAST_BEATS_SECONDS = 2 * BEAT_SECONDS
"""How long the store outlives a failure of rank 0: until each of the others has heard why."""
STOP_SECONDS = 6.0
"""For the thread to end: a little more than one call to the store takes."""

logger = logging.getLogger(__name__)


class Membership:
    """A rank's standing in its group, kept up to date by a thread.

    Args:
        member: the rank's part in the protocol.
        address: of the store.
        report: gives the rank's report, which is published with each beat.
        timeout_seconds: how long the store may be away before the rank gives up.
    """

    def __init__(
        self,
        member: Member,
        address: Address,
        report: Callable[[], RankReport],
        timeout_seconds: float,
    ) -> None:
        self._member = member
        self._address = address
        self._report = report
        self._timeout = timeout_seconds
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._incarnation: int | None = None
        self._left: int | None = None
        self._error: GroupError | None = None
        self._lost: list[int] = []
        self._failure = ""
        self._last_beat = 0.0
        self.roster = Roster(member.world_size) if member.rank == 0 else None
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self) -> None:
        """Join, and keep in touch until ``stop``."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the group to itself; when rank 0 has failed, after the others have heard of it."""
        if self.roster is not None and self._report().state == "failed":
            self._stopping.wait(LAST_BEATS_SECONDS)
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    @property
    def incarnation(self) -> int | None:
        """The incarnation that the rank is a member of; None while the store is away."""
        return self._incarnation

    @property
    def is_whole(self) -> bool:
        """Whether the store was heard lately and no rank is lost."""
        fresh = time.monotonic() - self._last_beat < STALE_SECONDS
        return fresh and self._incarnation is not None and not self._lost

    @property
    def trouble(self) -> str:
        """What keeps the group from being whole, as far as this rank knows; empty: nothing."""
        if self.is_whole:
            return ""
        if self._incarnation is None:
            known = f"; {self._failure}" if self._failure else ""
            return f"waiting for rank 0's store at {self._address[0]}:{self._address[1]}{known}"
        if self._failure:
            return self._failure
        return f"waiting for rank {name_ranks(self._lost)} to come back" if self._lost else ""

    def wait_joined(self) -> int:
        """Wait until the rank is a member, and give the incarnation.

        Raises:
            ConfigurationError: the rank has not begun to join.
            GroupError: the store did not come (back), another process took over the rank, or it
                has left.
        """
        if self._thread.ident is None:
            raise ConfigurationError(
                "ModelDistributor: its rank is no member of a group yet; use it in a `with` block"
            )
        if self._stopping.is_set():
            raise GroupError("the rank has left its group; load again in a `with` block of its own")
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._incarnation is not None)
            if self._error:
                raise self._error
            assert self._incarnation is not None
            return self._incarnation

    def wait_over(self, incarnation: int) -> None:
        """Wait until the group has left ``incarnation``, or the rank cannot follow it."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._incarnation != incarnation)

    @contextmanager
    def ending_when_over(self, incarnation: int, end: Callable[[], None]) -> Iterator[None]:
        """Call ``end`` when the group leaves ``incarnation`` within a block of code."""
        done = threading.Event()

        def watch() -> None:
            self.wait_over(incarnation)
            if not done.is_set():
                end()

        threading.Thread(target=watch, name="forming", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def hear_arrivals(self, store: Store, incarnation: int) -> None:
        """Take what ranks said when they arrived at ``incarnation``; on rank 0 alone."""
        if self.roster is not None:
            for rank, beat in read_arrivals(store, self._member, incarnation).items():
                self.roster.hear(rank, beat, time.monotonic())

    def leave(self, incarnation: int) -> None:
        """Move the group on from ``incarnation``, in which it could not be formed."""
        with self._changed:
            self._left = incarnation
        self.wait_over(incarnation)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._follow(connect(self._address, self._timeout, self._stopping))
        except GroupError as error:
            self._publish(None, error)
        except Exception as error:  # who waits for this thread must not wait for ever
            logger.exception("rank %d lost touch with its group", self._member.rank)
            text = f"cannot keep in touch with the group: {type(error).__name__}"
            self._publish(None, GroupError(f"{text}: {excerpt(str(error))}"))

    def _follow(self, store: Store) -> None:
        """Join and beat until the store fails or the rank shall stop."""
        try:
            while not self._stopping.is_set():
                self._publish(self._member.join(store))
                self._beat_until_over(store)
        except DistError:
            pass
        self._publish(None)

    def _beat_until_over(self, store: Store) -> None:
        while not self._stopping.is_set() and self._member.is_current(store):
            if self._left == self._incarnation:
                return
            self._beat(store)
            self._stopping.wait(BEAT_SECONDS)
        if self._stopping.is_set():
            self._beat(store)  # a rank that gives up has something to say

    def _beat(self, store: Store) -> None:
        write_beat(store, self._member, self._report)
        if self.roster is not None:
            self.roster.refresh(store, time.monotonic())
            write_failure(store, self.roster.failure())
        self._lost = read_lost(store)
        self._failure = read_failure(store)
        self._last_beat = time.monotonic()

    def _publish(self, incarnation: int | None, error: GroupError | None = None) -> None:
        with self._changed:
            self._incarnation = incarnation
            self._error = error
            self._changed.notify_all()
