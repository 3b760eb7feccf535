"""Which slots of the development cluster the tests use; one line to move them.

Slot 0 is the demo's, so that both can be up at once. ``SHARDEDMODEL_TEST_SLOTS`` names another
first slot, for tests of two checkouts at a time.
"""

from __future__ import annotations

import os

FIRST = int(os.environ.get("SHARDEDMODEL_TEST_SLOTS", "1"))

END_TO_END = FIRST
OPERATOR = FIRST + 1
DEVCLUSTER = FIRST + 2
