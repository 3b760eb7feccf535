"""The command ``shardedmodel``: cut, inspect, verify and undo layouts, and run ranks.

Each subcommand is the module of its name (``-`` as ``_``), with ``add_arguments(parser)`` and
``run(arguments)``, which gives the exit code. Only the chosen one is imported: cutting a model
never loads torch.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from shardedmodel_runtime import logs
from shardedmodel_runtime.cli.output import abandon, prepare, show_error, tell
from shardedmodel_runtime.errors import ShardedModelError, excerpt, meant
from shardedmodel_runtime.process_one import end_by_sigterm
from shardedmodel_runtime.version import __version__

COMMANDS = {
    "plan": "show how a checkpoint would be cut, from its headers alone",
    "shard": "cut a checkpoint into one set of objects per rank",
    "reshard": "cut a layout for other ranks, without its checkpoint",
    "verify": "read every byte of a layout and hold it against its manifest",
    "unshard": "put a layout's tensors together again as a plain checkpoint",
    "load": "load a layout on this machine, alone or under torchrun",
    "delete-layout": "delete a layout, and nothing beside it",
    "rank": "run the ranks of one pod (what rank containers run)",
}
"""Subcommands and what they do."""

EXIT_CODES = """\
exit codes:
  0    done
  1    unexpected error, with a traceback
  2    the arguments, rules or parallelism cannot be meant
  3    the source is not a usable checkpoint
  4    the store refused: missing, no access, changed meanwhile
  5    the store is unavailable; trying again may help
  6    the layout is missing or broken
  7    the group of ranks could not form
  130  interrupted
  141  nobody reads stdout any more
  143  asked to end; trying again goes on where it was
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; the process's own where None.

    Returns:
        The exit code; errors of ours are one line on stderr.
    """
    end_by_sigterm()
    prepare()
    logs.configure()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else list(argv))
        return int(arguments.run(arguments))
    except ShardedModelError as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        abandon(sys.stdout)
        return 128 + signal.SIGPIPE  # what a shell reports of a process that the signal ended
    except KeyboardInterrupt:
        tell("interrupted")
        return 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="shardedmodel",
        description="Cut a checkpoint once, load it in parallel, exact to the bit.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    chosen = next((argument for argument in argv if argument in COMMANDS), None)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            command = import_module(f"{__name__}.{name.replace('-', '_')}")
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run, parser=subparser)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(arguments.parser, unknown[0])
    return arguments


def _refuse(parser: argparse.ArgumentParser, unknown: str) -> NoReturn:
    """End with the usage of the command itself, and the option that may have been meant."""
    options = [each for action in parser._actions for each in action.option_strings]
    near = meant(unknown.partition("=")[0], options)
    parser.error(f"unrecognized argument: {excerpt(unknown)}" + (f"; {near}" if near else ""))
