"""Text that users typed as an option, read into values; the ValueError says what the text must be, after "must"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

_DAY_SECONDS = 86_400
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


def parse_resources(text: str) -> Mapping[str, str]:
    """Read ``cpu=1,memory=512Mi``; the empty text is no limit at all.

    Raises:
        ValueError: a part is not name=value, or a name comes twice.
    """
    limits: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in limits:
            raise ValueError("be name=value pairs with commas between them, each name once, such as cpu=1,memory=512Mi")
        limits[name] = value
    return limits


def parse_setup(text: str) -> tuple[str, ...]:
    """Read commands for a sandbox's shell, one a line; the empty text is none.

    Raises:
        ValueError: it holds NUL.
    """
    if "\0" in text:
        raise ValueError("be commands for the shell, one a line, without NUL")
    return tuple(filter(None, (line.strip() for line in text.splitlines())))


def parse_put(text: str) -> Mapping[str, str]:
    """Read ``requirements.txt=/workspace/requirements.txt``; the empty text is nothing at all.

    Raises:
        ValueError: a part is not path=/path, or a path comes twice.
    """
    targets: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in re.split(r"[\n,]", text))):
        found = _PUT.fullmatch(part)
        if found is None or "\0" in part or found["source"] in targets:
            raise ValueError(
                "be path=/path pairs with commas or line breaks between them, each path once, such as"
                " requirements.txt=/workspace/requirements.txt"
            )
        targets[found["source"]] = found["target"]
    return targets


def setup_of_toml(value: object) -> tuple[str, ...]:
    """Read a list of commands for a sandbox's shell, each of one line or more.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) and "\0" not in one for one in value):
        raise ValueError("be text with a command a line, or a list of commands, each in quotes and without NUL")
    return tuple(filter(None, (one.strip() for one in value)))


def put_of_toml(value: object) -> Mapping[str, str]:
    """Read a list of ``"path=/path"``, or a table of paths.

    Raises:
        ValueError: something else.
    """
    rule = 'be text, a list of "path=/path", or a table such as {"requirements.txt" = "/workspace/requirements.txt"}'
    pairs: list[tuple[object, object]] = list(value.items()) if isinstance(value, Mapping) else []
    for one in value if isinstance(value, list) else ():
        found = _PUT.fullmatch(one.strip()) if isinstance(one, str) else None
        pairs.append((found["source"], found["target"]) if found else ("", ""))
    targets = {source: target for source, target in pairs if isinstance(source, str) and isinstance(target, str)}
    if len(targets) < len(pairs) or not all(
        source and target.startswith("/") and "\0" not in source + target for source, target in targets.items()
    ):
        raise ValueError(rule)
    return targets


def resources_of_toml(value: object) -> Mapping[str, str]:
    """Read a list of ``"name=value"``, or a table of limits, whose values may be numbers.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, Mapping):
        return parse_resources(",".join(f"{name}={limit}" for name, limit in value.items()))
    return parse_resources(",".join(map(str, value)) if isinstance(value, list) else str(value))


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
