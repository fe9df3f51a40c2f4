"""How each kind of option is read and shown.

The ValueError of a parser says what the value must be, as a phrase that follows "must".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DAY_SECONDS = 86_400
_SHOWN_CHARACTERS = 60
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_PUT = re.compile(r"(?P<source>[^=]+?)\s*=\s*(?P<target>/.*)")


def parse_image(text: str) -> str:
    """Read an image reference.

    Raises:
        ValueError: empty, or it holds white space.
    """
    if not text or re.search(r"\s", text):
        raise ValueError("be an image reference without white space, such as python:3.12-slim")
    return text


def parse_pool(text: str) -> str:
    """Read the name of a pool; the empty text is none.

    Raises:
        ValueError: it holds white space.
    """
    if re.search(r"\s", text):
        raise ValueError("be the name of a pool, without white space")
    return text


def parse_resources(value: str | list[Any] | dict[str, Any]) -> Mapping[str, str]:
    """Read ``cpu=1,memory=512Mi``, a list of ``"name=value"``, or a table, whose values may be numbers.

    The empty text, list or table is no limit at all.

    Raises:
        ValueError: a part is not name=value, or a name comes twice.
    """
    if isinstance(value, dict):
        value = [f"{name}={limit}" for name, limit in value.items()]
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    limits: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, limit = (piece.strip() for piece in part.partition("="))
        if not (name and equals and limit) or name in limits:
            raise ValueError("be name=value pairs with commas between them, each name once, such as cpu=1,memory=512Mi")
        limits[name] = limit
    return limits


def parse_setup(value: str | list[Any] | dict[str, Any]) -> tuple[str, ...]:
    """Read commands for a sandbox's shell: text with one a line, or a list, whose commands may have several lines.

    Raises:
        ValueError: a command holds NUL or is no text, or it is a table.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("be commands for the shell, one a line, without NUL")
        value = value.splitlines()
    elif isinstance(value, dict) or not all(isinstance(one, str) and "\0" not in one for one in value):
        raise ValueError("be text with a command a line, or a list of commands, each in quotes and without NUL")
    return tuple(filter(None, (one.strip() for one in value)))


def parse_put(value: str | list[Any] | dict[str, Any]) -> Mapping[str, str]:
    """Read ``requirements.txt=/workspace/requirements.txt``, a list of such pairs, or a table.

    The empty text, list or table is no file at all.

    Raises:
        ValueError: a part is not path=/path, or a path comes twice.
    """
    if isinstance(value, str):
        pairs = [_pair(part) for part in filter(None, (part.strip() for part in re.split(r"[\n,]", value)))]
        rule = (
            "be path=/path pairs with commas or line breaks between them, each path once, such as"
            " requirements.txt=/workspace/requirements.txt"
        )
    else:
        pairs = [_pair(part) for part in value] if isinstance(value, list) else list(value.items())
        rule = (
            'be text, a list of "path=/path", or a table such as {"requirements.txt" = "/workspace/requirements.txt"}'
        )
    if len(dict(pairs)) < len(pairs) or not all(_is_legal(*pair) for pair in pairs):
        raise ValueError(rule)
    return dict(pairs)


def _pair(part: object) -> tuple[str, str]:
    """Return source and target of ``path=/path``; two empty texts for something else."""
    found = _PUT.fullmatch(part.strip()) if isinstance(part, str) else None
    return (found["source"], found["target"]) if found else ("", "")


def _is_legal(source: str, target: object) -> bool:
    return bool(source) and isinstance(target, str) and target.startswith("/") and "\0" not in source + target


def parse_lease(text: str) -> int:
    """Read a lease; whole seconds, 60 … 86,400, as the server has it.

    Raises:
        ValueError: something else.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not 60 <= int(text) <= _DAY_SECONDS:
        raise ValueError("be whole seconds, 60 to 86400")
    return int(text)


def parse_seconds(text: str) -> float:
    """Read a time limit; seconds, more than 0 and up to one day.

    Raises:
        ValueError: something else.
    """
    rule = "be seconds, more than 0 and at most 86400"
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(rule) from None
    if not (math.isfinite(seconds) and 0 < seconds <= _DAY_SECONDS):
        raise ValueError(rule)
    return seconds


def parse_switch(text: str) -> bool:
    """Read yes or no, in the spellings that ini files use.

    Raises:
        ValueError: another word.
    """
    word = text.strip().lower()
    if word not in _YES | _NO:
        raise ValueError("be yes or no (also true/false, on/off, 1/0)")
    return word in _YES


def parse_ca_bundle(text: str) -> str:
    """Read the path of a file with certificates; the empty text is none.

    Returns:
        Absolute path, or "".

    Raises:
        ValueError: no such file.
    """
    path = Path(text).expanduser()
    if text and not path.is_file():
        raise ValueError("be a file with certificates (PEM)")
    return str(path.absolute()) if text else ""


def show_resources(limits: Mapping[str, str]) -> str:
    """Return limits as ``parse_resources`` reads them."""
    return ",".join(f"{name}={limit}" for name, limit in limits.items())


def show_setup(commands: Sequence[str]) -> str:
    """Return the commands of a setup on one line, truncated."""
    return _truncated("; ".join(commands))


def show_put(targets: Mapping[str, str]) -> str:
    """Return the paths of files on one line, truncated."""
    return _truncated(",".join(f"{source}={target}" for source, target in targets.items()))


def show_seconds(seconds: float) -> str:
    """Return a time with its unit."""
    return f"{seconds:g} s"


def show_switch(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def _truncated(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
