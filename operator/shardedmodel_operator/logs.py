"""Log lines: one JSON object each for collectors, or plain text for people.

Each line of a reconciliation names its model, in whatever function and thread it is written, so
that the story of one model can be told from the log of all.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

current_model: ContextVar[str] = ContextVar("current_model", default="")
"""The model that this task works on, ``namespace/name``; threads that it starts inherit it."""

QUIET = ("kopf", "aiohttp", "kubernetes", "urllib3", "asyncio")
"""Libraries whose everyday lines drown ours; kopf alone tells of each event. The client of
Kubernetes logs whole answers at DEBUG, which may hold what a log must not."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line: time (RFC 3339, UTC), level, logger, message, model where known."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if model := current_model.get():
            line["model"] = model
            line["namespace"] = model.partition("/")[0]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, model and message."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, and the traceback below it where there is one."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        model = f" {found}:" if (found := current_model.get()) else ""
        line = f"{time} {record.levelname:<7}{model} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str, style: Literal["json", "text"]) -> None:
    """Send all log lines of the process to stderr; for the command line alone to call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
