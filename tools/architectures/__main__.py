"""Write ``transformers.json`` and ``docs/architectures.md``; ``--check`` says if one is stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers

from shardedmodel_runtime.sharding.architectures import carried
from tools.architectures.document import document
from tools.architectures.page import page

DATA = Path(carried.__file__).with_name(carried.DATA)
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def main() -> int:
    """Write or check the generated files."""
    transformers.logging.set_verbosity_error()
    made = json.dumps(document(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return _is_stale(DATA, made) or _is_stale(PAGE, page())
    DATA.write_text(made, encoding="utf-8")
    # The page is made from the data, which this process has read before it was written.
    carried.carried.cache_clear()
    PAGE.write_text(page(), encoding="utf-8")
    return 0


def _is_stale(path: Path, text: str) -> int:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} is stale; run python -m tools.architectures", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
