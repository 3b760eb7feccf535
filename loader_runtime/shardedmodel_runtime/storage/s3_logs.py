"""What libraries log of presigned URLs, without the signatures.

urllib3 warns of a malformed header with the whole address of the request: for a presigned URL that
is a key's id, a session token and a signature, in the log of every rank.
"""

from __future__ import annotations

import logging
import re

LOGGERS = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.util.retry",
    "botocore.auth",
    "botocore.endpoint",
    "botocore.httpsession",
)
"""Which show addresses or what is in them: the first at WARNING, others at INFO or DEBUG. A filter
counts for its own logger alone, not for those below it."""

_QUERY = re.compile(r"\?[^\s'\"()]*")
"""Of a presigned URL, which holds a signature; what is before it may be shown."""
_SIGNED = re.compile(r"(?i)(X-Amz-(?:Credential|Security-Token|Signature))(['\"]?[=:] ?)[^\s&,}]+")
"""Of the same where it stands by itself, as signers log it, or as a header."""


def without_query(text: str) -> str:
    """Give a text without the query strings of its addresses."""
    return _QUERY.sub("", text)


def hide_signatures() -> None:
    """Let libraries log no query of an address; the second time it changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


class _WithoutSignatures(logging.Filter):
    """Takes signatures out of a record, with its arguments put in, and out of its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always logged."""
        try:
            record.msg, record.args = _hidden(record.getMessage()), None
        except (TypeError, ValueError):  # arguments that do not fit: logging tells of it itself
            record.msg, record.args = _hidden(str(record.msg)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _hidden(logging.Formatter().formatException(record.exc_info))
        return True


def _hidden(text: str) -> str:
    return _SIGNED.sub(r"\1\2-", without_query(text))


_FILTER = _WithoutSignatures()
"""One for all: logging adds the same filter once."""
