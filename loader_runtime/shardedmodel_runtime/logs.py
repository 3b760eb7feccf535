"""Logging of the processes that are ours, commands and ranks; a library configures none."""

from __future__ import annotations

import logging

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


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
