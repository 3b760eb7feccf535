"""``python -m shardedmodel_operator``: the same as the command ``shardedmodel-operator``."""

from __future__ import annotations

import sys

from shardedmodel_operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
