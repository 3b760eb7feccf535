"""The clock by which requests to S3 are signed: the server's, where this machine's is wrong.

S3 refuses signatures whose time is more than 15 minutes from its own, and botocore signs by the
machine's clock whatever the server says. Each refusal carries the server's time, so what the two
differ by is learnt from it, and the request is signed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from shardedmodel_runtime.storage.s3_errors import CLOCK_CODES, error_code, http_status

TOLERANCE = timedelta(minutes=1)
"""What clocks may differ by without being the reason of a refusal: a Date header tells seconds,
and an answer may be on its way for as long as a read may be silent."""

LAST_YEAR = 9998
"""Of a clock that can go on: Python's time ends with the year after it."""

_SIGNED = "timestamp"
"""Where botocore's signers keep the time that they sign, in a request's context."""
_FORMAT = "%Y%m%dT%H%M%SZ"
"""Of that time (AWS Signature Version 4, ``X-Amz-Date``)."""


class ServerClock:
    """Tells one server's time.

    Args:
        now: this machine's clock, in UTC.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._ahead = timedelta()

    def sign_requests_of(self, client: Any) -> None:
        """Let a client of boto3's sign by this clock, presigned URLs too."""
        client.meta.events.register("before-sign.s3", self._set)

    def learn(self, error: ClientError) -> bool:
        """Take the server's time from a refusal.

        Returns:
            Whether the machine's clock may be the reason: signing anew may help then.
        """
        if http_status(error) not in (401, 403) and error_code(error) not in CLOCK_CODES:
            return False
        ahead = _date_of(error, self._now()) - self._now()
        if abs(ahead) <= TOLERANCE:
            return False
        self._ahead = ahead
        return True

    def _set(self, request: Any, **_: Any) -> None:
        """Put the server's time where the signer is about to put the machine's."""
        request.context = _Context(request.context, (self._now() + self._ahead).strftime(_FORMAT))


class _Context(dict[str, Any]):
    """The context of a request whose time of signing stays what it is."""

    def __init__(self, context: dict[str, Any], signed: str) -> None:
        super().__init__({**context, _SIGNED: signed})

    def __setitem__(self, key: str, value: Any) -> None:
        if key != _SIGNED:
            super().__setitem__(key, value)


def _date_of(error: ClientError, default: datetime) -> datetime:
    """Give the time at which the server answered; the default where it does not say."""
    metadata = error.response.get("ResponseMetadata", {})
    try:
        date = parsedate_to_datetime(str(metadata.get("HTTPHeaders", {}).get("date", "")))
    except (ValueError, OverflowError):  # a year of many digits
        return default
    if date.year > LAST_YEAR:
        return default
    return date if date.tzinfo else date.replace(tzinfo=UTC)
