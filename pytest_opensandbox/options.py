"""One table of everything that a user can set: flag, ini key, environment name, default, help."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest

API_KEY_ENV = "OPEN_SANDBOX_API_KEY"
"""The only place that the API key is read from; there is no flag and no ini key for it."""

PROTOCOL_ENV = "OPEN_SANDBOX_PROTOCOL"
"""``http`` or ``https`` for an ``OPEN_SANDBOX_DOMAIN`` that names none."""

EMBEDDED = "embedded"
DOCKER = "docker"
EMBEDDED_IMAGE = "host"
SERVER_IMAGE = "python:3.12-slim"

_DAY_SECONDS = 86_400
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Option:
    """One thing that a user can set."""

    name: str
    """Field of ``Settings`` without its unit, words joined by ``_``."""
    env: str
    """Name in the environment; the server's own where it has one."""
    default: str | None
    """Text that stands where nobody set it, read like any other; None where ``default_text`` names a rule."""
    parse: Callable[[str], Any]
    """Turns text into a value; its ValueError says what the text must be, as a phrase that follows "must"."""
    help: str
    """What it does, with its unit."""
    metavar: str = "TEXT"
    """Stands for the value in ``--help``; "" for a switch."""
    default_text: str = ""
    """How help and README name the default where that is not ``default`` itself."""

    @property
    def flag(self) -> str:
        """Name on the command line."""
        return f"--opensandbox-{self.name.replace('_', '-')}"

    @property
    def off_flag(self) -> str:
        """Name on the command line that says no to a switch, or ""."""
        return "" if self.metavar else f"--no-{self.flag[2:]}"

    @property
    def ini(self) -> str:
        """Key in pytest.ini, pyproject.toml and the like."""
        return f"opensandbox_{self.name}"

    @property
    def dest(self) -> str:
        """Attribute of pytest's namespace of flags."""
        return f"opensandbox_{self.name}"

    @property
    def shown_default(self) -> str:
        """The default in words."""
        return self.default_text or str(self.default)


def add_options(parser: pytest.Parser) -> None:
    """Give pytest the table: a flag each, in one group, and an ini key each; both as text, None where not given."""
    group = parser.getgroup("opensandbox", "OpenSandbox")
    for option in OPTIONS:
        places = f"(default: {option.shown_default}; ini: {option.ini}, environment: {option.env})"
        text = f"{option.help} {places}"
        if option.off_flag:
            group.addoption(option.flag, action="store_const", const="yes", default=None, dest=option.dest, help=text)
            off = f"The opposite of {option.flag}."
            group.addoption(option.off_flag, action="store_const", const="no", default=None, dest=option.dest, help=off)
        else:
            group.addoption(option.flag, default=None, dest=option.dest, metavar=option.metavar, help=text)
        parser.addini(option.ini, f"As {option.flag}, as text.", default=None)


def parse_url(text: str) -> str:
    """Read where sandboxes come from.

    Returns:
        ``embedded``, ``docker``, or an http(s) URL without a slash at its end.

    Raises:
        ValueError: another scheme, no host, a port that is none; or a user name, query or fragment.
    """
    if text in (EMBEDDED, DOCKER):
        return text
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        raise ValueError("be 'embedded', 'docker' or a URL that begins with http:// or https://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"hold no user name, query or fragment; the key comes from {API_KEY_ENV}")
    return text.rstrip("/")


def parse_image(text: str) -> str:
    """Read an image reference.

    Raises:
        ValueError: empty, or it holds white space.
    """
    if not text or re.search(r"\s", text):
        raise ValueError("be an image reference without white space, such as python:3.12-slim")
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


OPTIONS: tuple[Option, ...] = (
    Option(
        "url",
        "OPEN_SANDBOX_DOMAIN",
        EMBEDDED,
        parse_url,
        "Where sandboxes come from: 'embedded' starts a small server on this machine (Linux namespaces, no daemon), "
        "'docker' one on the local Docker engine, and http(s)://HOST[:PORT] names a server that runs already.",
        "URL",
    ),
    Option(
        "image",
        "OPENSANDBOX_IMAGE",
        None,
        parse_image,
        "Image of a sandbox whose test asks for no other.",
        "IMAGE",
        f"{EMBEDDED_IMAGE} where the url is embedded, else {SERVER_IMAGE}",
    ),
    Option(
        "resources",
        "OPENSANDBOX_RESOURCES",
        "cpu=500m,memory=512Mi",
        parse_resources,
        "Limits of a sandbox whose test asks for no others, as name=value pairs; cpu in cores or millicores, "
        "memory in bytes or with a suffix such as Mi.",
        "LIMITS",
    ),
    Option(
        "lease",
        "OPENSANDBOX_LEASE",
        "120",
        parse_lease,
        "Whole seconds, 60 to 86400, that a sandbox outlives a pytest that was killed; renewed while pytest lives.",
        "SECONDS",
    ),
    Option(
        "ready_timeout",
        "OPENSANDBOX_READY_TIMEOUT",
        "60",
        parse_seconds,
        "Seconds that a sandbox may take from its creation until commands can run in it.",
        "SECONDS",
    ),
    Option(
        "command_timeout",
        "OPENSANDBOX_COMMAND_TIMEOUT",
        "60",
        parse_seconds,
        "Seconds that a command may take if neither the call nor the marker says otherwise.",
        "SECONDS",
    ),
    Option(
        "server_proxy",
        "OPEN_SANDBOX_USE_SERVER_PROXY",
        "no",
        parse_switch,
        "Reach the sandboxes through the server's own proxy, for a server whose sandboxes this machine cannot reach.",
        "",
    ),
)


def _split(text: str) -> SplitResult | None:
    """Return the parts of a URL, or None where it has no legal host and port."""
    try:
        parts = urlsplit(text)
        return parts if parts.port != 0 else None
    except ValueError:
        return None
