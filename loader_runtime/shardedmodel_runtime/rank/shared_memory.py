"""Where ranks of one pod leave for each other what several of them hold: a folder in memory.

Without it each of them would read such an object from the store. The folder is a cache like that of
a node, but it keeps nothing else and lives only until the ranks have loaded: what is in it counts
against the pod's memory, until the last rank that uses its pages lets them go.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.rank.options import RankOptions

logger = logging.getLogger(__name__)

ROOT = Path("/dev/shm")
"""Memory as a file system (tmpfs), in every Linux container."""
PREFIX = "shardedmodel-"
OWNER = "owner"
"""A file that is locked as long as the pod's supervisor lives."""
BYTES_PER_RANK = 512 * 1024 * 1024
"""Most that lies there for each rank: half of what the operator gives ``/dev/shm`` for it; NCCL
needs some hundred MB of the rest."""


class SharedMemory:
    """A folder of this pod's own in ``root``, until it is removed.

    Raises:
        OSError: there is no such file system, or it takes nothing.
    """

    def __init__(self, root: Path = ROOT) -> None:
        _remove_ownerless(root)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self._owner = os.open(self.folder / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX)

    def limit(self, ranks: int) -> int:
        """Most bytes of entries for so many ranks: never more than half of what is free."""
        return max(1, min(ranks * BYTES_PER_RANK, shutil.disk_usage(self.folder).free // 2))

    def remove(self) -> None:
        """Remove the folder, if that has not been done; pages that ranks have mapped stay."""
        if self._owner < 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._owner)
        self._owner = -1


def share(
    options: RankOptions, first_rank: int, root: Path = ROOT
) -> tuple[RankOptions, SharedMemory | None]:
    """Let the ranks of a pod share, where there are several and they have no cache.

    Args:
        options: what the pod runs.
        first_rank: of the pod.
        root: of file systems in memory.

    Returns:
        What the ranks are to be told, and what is to be removed when they have loaded.
    """
    if options.local_ranks == 1 or options.cache:
        return options, None
    try:
        memory = SharedMemory(root)
    except OSError as error:
        logger.info("ranks of this pod share nothing: %s", excerpt(str(error)))
        return options, None
    told = {
        "cache": str(memory.folder),
        "cache_bytes": memory.limit(options.local_ranks),
        "cache_peers": tuple(range(first_rank, first_rank + options.local_ranks)),
    }
    return options.model_copy(update=told), memory


def _remove_ownerless(root: Path) -> None:
    """Remove what a killed supervisor left: the memory outlives its container."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            owner = os.open(folder / OWNER, os.O_RDWR)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(owner)
