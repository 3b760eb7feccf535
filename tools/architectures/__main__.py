"""Write ``transformers.json``; with ``--check``, say whether the installed version gives it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers

from shardedmodel_runtime.sharding.architectures import carried
from tools.architectures.document import document

PATH = Path(carried.__file__).with_name(carried.DATA)


def main() -> int:
    """Write or check the data file."""
    transformers.logging.set_verbosity_error()
    text = json.dumps(document(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.exists() and PATH.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PATH} is stale; run python -m tools.architectures", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
