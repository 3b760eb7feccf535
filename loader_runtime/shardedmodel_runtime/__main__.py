"""``python -m shardedmodel_runtime``: the same as the command ``shardedmodel``."""

import sys

from shardedmodel_runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
