"""Serves a group's store on PORT until it is killed: a stand-in for rank 0's process."""

from __future__ import annotations

import sys
import threading

from shardedmodel_runtime.rank.store import host

if __name__ == "__main__":
    store = host(int(sys.argv[1]))
    print("serving", flush=True)
    threading.Event().wait()
