"""The table of everything that a user can set, a row for each option."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

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
    show_put,
    show_resources,
    show_seconds,
    show_setup,
    show_switch,
)

if TYPE_CHECKING:
    import pytest

API_KEY_ENV = "OPEN_SANDBOX_API_KEY"
"""The only place that the API key is read from; there is no flag and no ini key for it."""

PROTOCOL_ENV = "OPEN_SANDBOX_PROTOCOL"
"""``http`` or ``https`` for an ``OPEN_SANDBOX_DOMAIN`` without a scheme."""

DOCKER_HOST_ENV = "DOCKER_HOST"
"""Docker's own variable for the address of its engine."""

EMBEDDED = "embedded"
DOCKER = "docker"
EMBEDDED_IMAGE = "host"
SERVER_IMAGE = "python:3.12-slim"
EXAMPLE_IMAGE = "what the installed opensandbox-server's own example names"

FILE = "FILE"
"""Stands for a path in ``--help``; in an ini file the path is relative to that file."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One value that a user can set: where it is written, how it is read, and how the header shows it."""

    field: str
    """Field of ``Settings`` that holds the value."""
    env: str
    """Environment variable; the server's own where the server has one."""
    default: str | None
    """Text that is read like any other where the user set nothing; None where ``default_text`` names a rule."""
    default_text: str = ""
    """The default in help and README where that is not ``default`` itself."""
    parse: Callable[[Any], Any]
    """Turns text into a value; its ValueError says what the text must be, as a phrase that follows "must"."""
    takes_lists: bool = False
    """Whether ``parse`` also takes the lists and tables of a TOML file."""
    show: Callable[[Any], str] = str
    """Turns a value into the text of the header; "" for none."""
    metavar: str = "TEXT"
    """Stands for the value in ``--help``; "" for a switch."""
    help: str
    """What the option does, with its unit."""

    @property
    def name(self) -> str:
        """Name of the option: its field without the unit, words joined by ``_``."""
        return self.field.removesuffix("_seconds")

    @property
    def flag(self) -> str:
        """Name on the command line."""
        return f"--opensandbox-{self.name.replace('_', '-')}"

    @property
    def off_flag(self) -> str:
        """Flag that turns a switch off; "" for an option that is no switch."""
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

    def shown(self, value: object) -> str:
        """Return a value as the header shows it."""
        return self.show(value) or "none"

    def place(self, source: str) -> str:
        """Return the flag, the variable or the ini key for a source of ``Settings.sources``; "default" as it is."""
        return {"flag": self.flag, "environment": self.env, "ini": self.ini}.get(source, source)


def add_options(parser: pytest.Parser) -> None:
    """Add a flag and an ini key for each option; both give text, and None where the user set nothing."""
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
        more = "; in TOML also a list" if option.takes_lists else ""
        parser.addini(option.ini, f"As {option.flag}{more}.", default=None)


def parse_url(text: str) -> str:
    """Read where sandboxes come from.

    Returns:
        ``embedded``, ``docker``, or an http(s) URL without a slash at its end.

    Raises:
        ValueError: another scheme, no host, an illegal port; or a user name, query or fragment.
    """
    if text in (EMBEDDED, DOCKER):
        return text
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        raise ValueError("be 'embedded', 'docker' or a URL that begins with http:// or https://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"hold no user name, query or fragment; the key comes from {API_KEY_ENV}")
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    """Return the parts of a URL, or None where it has no legal host and port."""
    try:
        parts = urlsplit(text)
        return parts if parts.port != 0 else None
    except ValueError:
        return None


OPTIONS: tuple[Option, ...] = (
    Option(
        field="url",
        env="OPEN_SANDBOX_DOMAIN",
        default=EMBEDDED,
        parse=parse_url,
        metavar="URL",
        help=(
            "Where sandboxes come from: 'embedded' starts a small server on this machine (Linux namespaces, no "
            "daemon), 'docker' one on the local Docker engine, and http(s)://HOST[:PORT] names a server that runs "
            "already."
        ),
    ),
    Option(
        field="image",
        env="OPENSANDBOX_IMAGE",
        default=None,
        default_text=f"{EMBEDDED_IMAGE} where the url is embedded, else {SERVER_IMAGE}",
        parse=parse_image,
        metavar="IMAGE",
        help="Image of a sandbox whose test asks for no other.",
    ),
    Option(
        field="pool",
        env="OPENSANDBOX_POOL",
        default="",
        default_text="none",
        parse=parse_pool,
        metavar="NAME",
        help=(
            "Pool of sandboxes made ahead, on Kubernetes, that a test's sandbox is taken from unless the test asks "
            "for an image, a snapshot, limits or a network of its own."
        ),
    ),
    Option(
        field="resources",
        env="OPENSANDBOX_RESOURCES",
        default="cpu=500m,memory=512Mi",
        parse=parse_resources,
        takes_lists=True,
        show=show_resources,
        metavar="LIMITS",
        help=(
            "Limits of a sandbox whose test asks for no others, as name=value pairs; cpu in cores or millicores, "
            "memory in bytes or with a suffix such as Mi."
        ),
    ),
    Option(
        field="setup",
        env="OPENSANDBOX_SETUP",
        default="",
        default_text="none",
        parse=parse_setup,
        takes_lists=True,
        show=show_setup,
        metavar="COMMANDS",
        help=(
            "Shell commands, one a line, each in a shell of its own, that prepare the sandbox of a test which asks "
            "for no other setup: they run once per run, image and content of --opensandbox-put, and each test gets a "
            "sandbox restored from their snapshot."
        ),
    ),
    Option(
        field="put",
        env="OPENSANDBOX_PUT",
        default="",
        default_text="none",
        parse=parse_put,
        takes_lists=True,
        show=show_put,
        metavar="PATHS",
        help=(
            "Files and directories that each sandbox has before its setup runs, as path=/path pairs: a path on this "
            "machine, relative to the rootdir, and an absolute one in the sandbox."
        ),
    ),
    Option(
        field="setup_timeout_seconds",
        env="OPENSANDBOX_SETUP_TIMEOUT",
        default="600",
        parse=parse_seconds,
        show=show_seconds,
        metavar="SECONDS",
        help="Seconds that each command of a setup may take.",
    ),
    Option(
        field="lease_seconds",
        env="OPENSANDBOX_LEASE",
        default="120",
        parse=parse_lease,
        show=show_seconds,
        metavar="SECONDS",
        help=(
            "Whole seconds, 60 to 86400, that a sandbox outlives a pytest that was killed; renewed while pytest lives."
        ),
    ),
    Option(
        field="ready_timeout_seconds",
        env="OPENSANDBOX_READY_TIMEOUT",
        default="60",
        parse=parse_seconds,
        show=show_seconds,
        metavar="SECONDS",
        help="Seconds that a sandbox may take from its creation until commands can run in it.",
    ),
    Option(
        field="command_timeout_seconds",
        env="OPENSANDBOX_COMMAND_TIMEOUT",
        default="60",
        parse=parse_seconds,
        show=show_seconds,
        metavar="SECONDS",
        help="Seconds that a command may take if neither the call nor the marker says otherwise.",
    ),
    Option(
        field="server_proxy",
        env="OPEN_SANDBOX_USE_SERVER_PROXY",
        default="no",
        parse=parse_switch,
        show=show_switch,
        metavar="",
        help=(
            "Reach the sandboxes through the server's own proxy, for a server whose sandboxes this machine cannot "
            "reach."
        ),
    ),
    Option(
        field="ca_bundle",
        env="OPENSANDBOX_CA_BUNDLE",
        default="",
        default_text="REQUESTS_CA_BUNDLE if that is set, else the usual ones",
        parse=parse_ca_bundle,
        metavar=FILE,
        help="File with the certificates of the authorities to trust, for a server whose own are private.",
    ),
    Option(
        field="execd_image",
        env="OPENSANDBOX_EXECD_IMAGE",
        default=None,
        default_text=EXAMPLE_IMAGE,
        parse=parse_image,
        metavar="IMAGE",
        help="Image of the agent in each sandbox where the url is docker.",
    ),
    Option(
        field="egress_image",
        env="OPENSANDBOX_EGRESS_IMAGE",
        default=None,
        default_text=EXAMPLE_IMAGE,
        parse=parse_image,
        metavar="IMAGE",
        help="Image of the egress sidecar of a sandbox with a network policy where the url is docker.",
    ),
    Option(
        field="signals",
        env="OPENSANDBOX_SIGNALS",
        default="yes",
        parse=parse_switch,
        show=show_switch,
        metavar="",
        help=(
            "Let SIGTERM, SIGHUP and SIGQUIT end a run that has sandboxes as Ctrl-C does, so that they are deleted, "
            "where nothing else handles these signals."
        ),
    ),
)
