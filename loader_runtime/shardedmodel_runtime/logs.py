"""Logging of the processes that are ours, commands and ranks; a library configures none."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping

TALKATIVE = ("boto3", "botocore", "s3transfer", "torch", "urllib3")
"""Libraries whose remarks tell users nothing; their warnings are shown."""
RAISES_AS_WELL = "botocore.credentials"
"""Logs an error with its traceback and raises it then, which becomes one of ours."""


def configure() -> None:
    """Log to stderr what the runtime says, and what libraries warn of."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(RAISES_AS_WELL).addFilter(_without_traceback)


def quieten_torch(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have torch's C++ log nothing, unless the environment says otherwise.

    It logs a page for each failed attempt to connect; what matters comes as an exception. It reads
    the variable when it is imported.
    """
    environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
