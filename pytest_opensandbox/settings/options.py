"""One table of everything that a user can set: flag, ini key, environment name, default, help."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest

from pytest_opensandbox.settings.parsing import (
    parse_ca_bundle,
    parse_image,
    parse_lease,
    parse_pool,
    parse_put,
    parse_resources,
    parse_seconds,
    parse_setup,
    parse_switch,
    put_of_toml,
    resources_of_toml,
    setup_of_toml,
)

API_KEY_ENV = "OPEN_SANDBOX_API_KEY"
"""The only place that the API key is read from; there is no flag and no ini key for it."""

PROTOCOL_ENV = "OPEN_SANDBOX_PROTOCOL"
"""``http`` or ``https`` for an ``OPEN_SANDBOX_DOMAIN`` that names none."""

DOCKER_HOST_ENV = "DOCKER_HOST"
"""Docker's own name for the address of its engine."""

EMBEDDED = "embedded"
DOCKER = "docker"
EMBEDDED_IMAGE = "host"
SERVER_IMAGE = "python:3.12-slim"
EXAMPLE_IMAGE = "what the installed opensandbox-server's own example names"

FILE = "FILE"
"""Stands for a path in ``--help``; in an ini file it is relative to that file."""


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
    of_toml: Callable[[object], Any] | None = None
    """Turns a list or a table of a TOML file into a value, as ``parse`` does with text; None where it must be text."""

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
        more = "; in TOML also a list" if option.of_toml else ""
        parser.addini(option.ini, f"As {option.flag}{more}.", default=None)


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
        "pool",
        "OPENSANDBOX_POOL",
        "",
        parse_pool,
        "Pool of sandboxes made ahead, on Kubernetes, that a test's sandbox is taken from unless the test asks for an "
        "image, a snapshot, limits or a network of its own.",
        "NAME",
        "none",
    ),
    Option(
        "resources",
        "OPENSANDBOX_RESOURCES",
        "cpu=500m,memory=512Mi",
        parse_resources,
        "Limits of a sandbox whose test asks for no others, as name=value pairs; cpu in cores or millicores, "
        "memory in bytes or with a suffix such as Mi.",
        "LIMITS",
        of_toml=resources_of_toml,
    ),
    Option(
        "setup",
        "OPENSANDBOX_SETUP",
        "",
        parse_setup,
        "Shell commands, one a line, each in a shell of its own, that prepare the sandbox of a test which asks for no "
        "other setup: they run once per run, image and content of --opensandbox-put, and each test gets a sandbox "
        "restored from their snapshot.",
        "COMMANDS",
        "none",
        of_toml=setup_of_toml,
    ),
    Option(
        "put",
        "OPENSANDBOX_PUT",
        "",
        parse_put,
        "Files and directories that each sandbox has before its setup runs, as path=/path pairs: a path on this "
        "machine, relative to the rootdir, and an absolute one in the sandbox.",
        "PATHS",
        "none",
        of_toml=put_of_toml,
    ),
    Option(
        "setup_timeout",
        "OPENSANDBOX_SETUP_TIMEOUT",
        "600",
        parse_seconds,
        "Seconds that each command of a setup may take.",
        "SECONDS",
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
    Option(
        "ca_bundle",
        "OPENSANDBOX_CA_BUNDLE",
        "",
        parse_ca_bundle,
        "File with the certificates of the authorities to trust, for a server whose own are private.",
        FILE,
        "REQUESTS_CA_BUNDLE if that is set, else the usual ones",
    ),
    Option(
        "execd_image",
        "OPENSANDBOX_EXECD_IMAGE",
        None,
        parse_image,
        "Image of the agent in each sandbox where the url is docker.",
        "IMAGE",
        EXAMPLE_IMAGE,
    ),
    Option(
        "egress_image",
        "OPENSANDBOX_EGRESS_IMAGE",
        None,
        parse_image,
        "Image of what guards the network of a sandbox with a network policy where the url is docker.",
        "IMAGE",
        EXAMPLE_IMAGE,
    ),
    Option(
        "signals",
        "OPENSANDBOX_SIGNALS",
        "yes",
        parse_switch,
        "Let SIGTERM, SIGHUP and SIGQUIT end a run that has sandboxes as Ctrl-C does, so that they are deleted, where "
        "nothing else handles these signals.",
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
