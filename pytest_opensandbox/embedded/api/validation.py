"""Checks of the values in a request, and the bodies of refusals as the real server words them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from pytest_opensandbox.embedded.errors import RefusedError, refuse

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_PREFIX = re.compile(rf"(?:{_DNS_LABEL}\.)*{_DNS_LABEL}")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_MEMORY = re.compile(r"\s*(\d+)(?:[kmgt](?:i|b)?|b)?\s*", re.IGNORECASE)
_RESERVED = "opensandbox.io/"
_LABEL_CHARACTERS = 63
_MEMORY_CHARACTERS = 4000  # int() refuses 4,301 digits
_FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}

T = TypeVar("T")
_PREFIX_CHARACTERS = 253
_NUMBER = re.compile(r"[-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
# A number from there on counts milliseconds, as in the real server's library.
_MAX_SECONDS = 20_000_000_000


def reject(kind: str, loc: list[str | int], message: str, value: object, **context: object) -> NoReturn:
    """Raise the refusal for a value of the wrong shape.

    Raises:
        RefusedError: always, with status 422.
    """
    error: dict[str, object] = {"type": kind, "loc": loc, "msg": message, "input": value}
    raise RefusedError(422, {"detail": [{**error, "ctx": context} if context else error]})


def reject_body(message: str, body: object) -> NoReturn:
    """Raise the refusal for fields that do not go together.

    Raises:
        RefusedError: always, with status 422.
    """
    reject("value_error", ["body"], f"Value error, {message}", body, error={})


def parse_json(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        RefusedError: there is none.
    """
    if not raw:
        reject("missing", ["body"], "Field required", None)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else 0
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        reject("json_invalid", ["body", position], "JSON decode error", {}, error=reason)
    if not isinstance(body, dict):
        reject(
            "model_attributes_type",
            ["body"],
            "Input should be a valid dictionary or object to extract fields from",
            body,
        )
    return body


def integer(value: object, loc: list[str | int], *, at_least: int, at_most: int | None = None) -> int:
    """Return a whole number in its range; text that spells one counts.

    Raises:
        RefusedError: it is something else.
    """
    if isinstance(value, str) and not re.fullmatch(r"\s*[-+]?[0-9]{1,1000}\s*", value):
        message = "Input should be a valid integer, unable to parse string as an integer"
        reject("int_parsing", loc, message, value)
    if isinstance(value, float) and not value.is_integer():
        reject("int_from_float", loc, "Input should be a valid integer, got a number with a fractional part", value)
    if not isinstance(value, (int, float, str)):
        reject("int_type", loc, "Input should be a valid integer", value)
    number = int(value)
    if number < at_least:
        reject("greater_than_equal", loc, f"Input should be greater than or equal to {at_least}", value, ge=at_least)
    if at_most is not None and number > at_most:
        reject("less_than_equal", loc, f"Input should be less than or equal to {at_most}", value, le=at_most)
    return number


def boolean(value: object, loc: list[str | int]) -> bool:
    """Return a boolean; the usual texts and numbers for one count.

    Raises:
        RefusedError: it is something else.
    """
    known = _FLAGS.get(value.lower()) if isinstance(value, str) else value if value in (0, 1) else None
    if known is None:
        reject("bool_parsing", loc, "Input should be a valid boolean, unable to interpret input", value)
    return bool(known)


def typed(value: object, kind: type[T], field: str) -> T:
    """Return an object, or a list, of a body.

    Raises:
        RefusedError: it is something else.
    """
    if not isinstance(value, kind):
        word = "dictionary" if kind is dict else "list"
        reject(f"{word[:4]}_type", ["body", field], f"Input should be a valid {word}", value)
    return value


def text(value: object, loc: list[str | int]) -> str:
    """Return a text.

    Raises:
        RefusedError: it is something else.
    """
    if not isinstance(value, str):
        reject("string_type", loc, "Input should be a valid string", value)
    return value


def texts(value: object, field: str) -> list[str]:
    """Return a list of texts with at least one item.

    Raises:
        RefusedError: it is something else.
    """
    loc: list[str | int] = ["body", field]
    if not isinstance(value, list):
        reject("list_type", loc, "Input should be a valid list", value)
    if not value:
        message = "List should have at least 1 item after validation, not 0"
        reject("too_short", loc, message, value, field_type="List", min_length=1, actual_length=0)
    return [text(item, [*loc, index]) for index, item in enumerate(value)]


def mapping(value: object, field: str, *, drop_null: bool = False) -> dict[str, str]:
    """Return an object of texts, empty for null.

    Raises:
        RefusedError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        reject("dict_type", ["body", field], "Input should be a valid dictionary", value)
    kept = {key: item for key, item in value.items() if not (drop_null and item is None)}
    return {key: text(item, ["body", field, key]) for key, item in kept.items()}


def check_labels(metadata: Mapping[str, str]) -> None:
    """Check metadata against the rules of Kubernetes labels.

    Raises:
        RefusedError: a key or a value breaks them.
    """
    code = "SANDBOX::INVALID_METADATA_LABEL"
    for key, value in metadata.items():
        if key.startswith(_RESERVED):
            refuse(
                400,
                code,
                f"Metadata key '{key}' uses the reserved prefix '{_RESERVED}'. "
                "Keys under this prefix are managed by the system and cannot be set via metadata.",
            )
        if not _is_label_key(key):
            refuse(
                400,
                code,
                f"Metadata key '{key}' is invalid: must be either a name or a DNS-subdomain prefix and name"
                " separated by /, where the name is up to 63 characters and matches"
                " [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?,"
                " and the optional prefix is a valid DNS subdomain up to 253 characters.",
            )
        if value and not _is_label_name(value):
            refuse(
                400,
                code,
                f"Metadata value '{value}' is invalid: must be 63 characters or less, start/end with an alphanumeric"
                " character, and contain only alphanumeric, '-', '_', or '.' characters.",
            )


def check_resources(limits: Mapping[str, str]) -> None:
    """Check that cpu and memory are amounts that Docker accepts.

    Raises:
        RefusedError: a limit is not a positive amount.
    """
    for key, is_valid in (("memory", _is_memory), ("cpu", _is_cpu)):
        if key in limits and not is_valid(limits[key]):
            message = f"Invalid resourceLimits.{key}: {limits[key][:80]!r}; must resolve to a positive resource limit."
            refuse(400, "SANDBOX::INVALID_PARAMETER", message)


def parse_filter(query: str) -> dict[str, str]:
    """Return the metadata that a listing asks for.

    Raises:
        RefusedError: the parameter is not ``key=value&key=value``.
    """
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError as error:
        refuse(400, "INVALID_METADATA_FORMAT", f"Invalid metadata format: {error}")


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/") if key.count("/") == 1 else ("", "", key)
    if slash and not (len(prefix) <= _PREFIX_CHARACTERS and _PREFIX.fullmatch(prefix)):
        return False
    return _is_label_name(name)


def _is_label_name(name: str) -> bool:
    return len(name) <= _LABEL_CHARACTERS and _NAME.fullmatch(name) is not None


def _is_memory(value: str) -> bool:
    match = _MEMORY.fullmatch(value)
    return match is not None and len(value) <= _MEMORY_CHARACTERS and 0 < int(match[1]) < 1 << 63


def _is_cpu(value: str) -> bool:
    cleaned = value.strip().lower()
    try:
        amount = float(cleaned.removesuffix("m"))
    except ValueError:
        return False
    return math.isfinite(amount) and amount > 0


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
        return datetime.fromtimestamp(number / 1000 if abs(number) > _MAX_SECONDS else number, timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        message = "Input should be a valid datetime or date, invalid datetime"
        reject("datetime_from_date_parsing", loc, message, value, error=str(error))


def _read_time(written: str) -> datetime:
    """Return a time; before Python 3.11 the library knows neither Z nor fractions of other than three or six digits."""
    plain = re.sub(r"\.(\d+)", lambda match: f".{match[1][:6]:0<6}", re.sub(r"[zZ]$", "+00:00", written))
    when = datetime.fromisoformat(plain)
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)
