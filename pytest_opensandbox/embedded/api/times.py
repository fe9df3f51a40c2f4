"""Points in time as requests write them, and when a sandbox ends."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from pytest_opensandbox.embedded.api.validation import reject

_NUMBER = re.compile(r"[-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
# A number from there on counts milliseconds, as in the real server's library.
_MOST_SECONDS = 20_000_000_000


def instant(value: object, field: str) -> datetime:
    """Return a point in time; without an offset it is UTC, a number counts seconds or milliseconds since 1970.

    Raises:
        RefusedError: it is something else.
    """
    loc: list[str | int] = ["body", field]
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        reject("datetime_type", loc, "Input should be a valid datetime", value)
    try:
        number = float(value) if not isinstance(value, str) or _NUMBER.fullmatch(value) else None
        if number is None:
            return _read_time(str(value)).astimezone(timezone.utc)
        return datetime.fromtimestamp(number / 1000 if abs(number) > _MOST_SECONDS else number, timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        message = "Input should be a valid datetime or date, invalid datetime"
        reject("datetime_from_date_parsing", loc, message, value, error=str(error))


def _read_time(written: str) -> datetime:
    """Return a time; before Python 3.11 the library knows neither Z nor fractions of other than three or six digits."""
    plain = re.sub(r"\.(\d+)", lambda match: f".{match[1][:6]:0<6}", re.sub(r"[zZ]$", "+00:00", written))
    when = datetime.fromisoformat(plain)
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)
