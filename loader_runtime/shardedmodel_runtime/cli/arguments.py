"""Arguments that several subcommands share, and what they are turned into."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.formats.dtypes import CASTS
from shardedmodel_runtime.loading.config import MAX_SECONDS, Options
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.plan import KEEP_DTYPE
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.options import StoreOptions

SOURCE_PREFIX = "SOURCE_"
STORAGE_PREFIX = "STORAGE_"
"""Of the credentials' variables: a Job reads one store and writes another. Where a prefixed
variable is not set, the plain one counts."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint's address."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint: s3://… or file:///…")
    _add_store(parser, "source", SOURCE_PREFIX)


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Add the address under which layouts lie."""
    parser.add_argument("storage", metavar="STORAGE", help="where layouts go: s3://… or file:///…")
    _add_store(parser, "storage", STORAGE_PREFIX)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add what loading takes, alone and in a pod; named as the fields of its configuration are."""
    _add_layout(parser)
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="S3-compatible server of the layout; credentials: the usual AWS variables and files",
    )
    parser.add_argument("--region", metavar="R", help="region of the layout")
    parser.add_argument(
        "--concurrency", type=int, metavar="N", help="most ranged reads in flight, of each rank"
    )
    parser.add_argument(
        "--deadline-seconds", type=float, metavar="S", help="longest time that a load may take"
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="folder on the node that keeps verified objects"
    )
    parser.add_argument(
        "--cache-bytes", type=int, metavar="B", help="most bytes of the cache; default: its disk"
    )


def given(arguments: argparse.Namespace, options: type[Options]) -> dict[str, Any]:
    """Take what was given of a configuration's fields; the others keep their defaults."""
    return {
        name: value
        for name, value in vars(arguments).items()
        if name in options.model_fields and value is not None
    }


def add_layout(parser: argparse.ArgumentParser, *, is_source: bool = False) -> None:
    """Add a layout's own address; as a source where another one is made of it."""
    _add_layout(parser)
    if is_source:
        _add_store(parser, "source", SOURCE_PREFIX)
    else:
        _add_store(parser, "storage", STORAGE_PREFIX)


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("layout", metavar="LAYOUT", help="layout: s3://…/HASH or file:///…/HASH")


def _add_store(parser: argparse.ArgumentParser, name: str, prefix: str) -> None:
    parser.add_argument(
        f"--{name}-endpoint-url",
        default="",
        metavar="URL",
        help=f"S3-compatible server of the {name}; credentials: {prefix}AWS_ACCESS_KEY_ID and "
        f"{prefix}AWS_SECRET_ACCESS_KEY, else the usual AWS variables and files",
    )
    parser.add_argument(f"--{name}-region", default="", metavar="R", help=f"region of the {name}")


def add_sharding(parser: argparse.ArgumentParser) -> None:
    """Add degrees, rules and the dtype."""
    parser.add_argument("--tensor", type=int, required=True, metavar="N", help="tensor parallelism")
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="pipeline stages")
    parser.add_argument("--expert", type=int, default=1, metavar="N", help="expert parallelism")
    parser.add_argument(
        "--rules",
        default="[]",
        metavar="FILE",
        help="rules before the built-in ones, a YAML or JSON file or the JSON itself: "
        '[{"match": "*.q_proj.weight", "strategy": "column"}]',
    )
    parser.add_argument(
        "--dtype",
        default=KEEP_DTYPE,
        metavar="T",
        help=f"cast floating-point tensors: {', '.join(CASTS)}; default {KEEP_DTYPE}",
    )


def add_unmatched(parser: argparse.ArgumentParser) -> None:
    """Add the consent to replicate what no rule matches."""
    parser.add_argument(
        "--allow-unmatched",
        action="store_true",
        help="also where no rule matches more than half of the checkpoint",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def seconds(text: str) -> float:
    """Take a time that somebody may wait for.

    Raises:
        ArgumentTypeError: it is no number above 0, or none that a clock can wait for.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{excerpt(text, 80)!r} is no number of seconds above 0")
    return value


def parallelism_of(arguments: argparse.Namespace) -> Parallelism:
    """Take the degrees from parsed arguments.

    Raises:
        ConfigurationError: a degree is out of range.
    """
    return Parallelism(arguments.tensor, arguments.pipeline, arguments.expert)


def opener(arguments: argparse.Namespace, name: str) -> Callable[[str], ObjectStore]:
    """Give what opens stores with the options of ``source`` or ``storage``.

    Raises:
        AccessDenied: one half of a key pair is set without the other.
    """
    options = StoreOptions.from_environment(
        SOURCE_PREFIX if name == "source" else STORAGE_PREFIX,
        endpoint_url=getattr(arguments, f"{name}_endpoint_url"),
        region=getattr(arguments, f"{name}_region"),
    )
    return lambda uri: open_store(uri, options)
