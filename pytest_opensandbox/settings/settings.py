"""The frozen Settings of a run, read from its flags, the environment and the ini file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_opensandbox.client.sandbox_opts import check_resources, label_value
from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.settings.ini_file import read_ini
from pytest_opensandbox.settings.options import (
    API_KEY_ENV,
    DOCKER,
    DOCKER_HOST_ENV,
    EMBEDDED,
    EMBEDDED_IMAGE,
    FILE,
    OPTIONS,
    PROTOCOL_ENV,
    SERVER_IMAGE,
    Option,
)
from pytest_opensandbox.transport.api_key import MaskedKey, masked

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of all options in one run, read and checked once."""

    url: str
    """``embedded``, ``docker``, or the http(s) URL of a server, without a slash at its end."""
    image: str
    """Image of a sandbox whose test asks for no other."""
    pool: str = ""
    """Pool that sandboxes are taken from, "" for none."""
    resources: Mapping[str, str]
    """Limits of a sandbox whose test asks for no others, such as ``{"cpu": "500m", "memory": "512Mi"}``."""
    setup: tuple[str, ...] = ()
    """Commands that prepare a sandbox whose test asks for no other setup."""
    put: Mapping[str, str] = field(default_factory=dict)
    """Paths on this machine, relative to the rootdir, and where they lie in each sandbox."""
    setup_timeout_seconds: float = 600.0
    """How long each command of a setup may take; > 0."""
    lease_seconds: int
    """How long a sandbox outlives a pytest that was killed; 60 … 86,400."""
    ready_timeout_seconds: float
    """How long a sandbox may take to become ready; > 0."""
    command_timeout_seconds: float
    """How long a command may take where neither the call nor the marker sets a limit; > 0."""
    server_proxy: bool
    """Whether the sandboxes are reached through the server's proxy."""
    execd_image: str | None = None
    """Image of the agent where the url is ``docker``; None for the one in the server's own example."""
    egress_image: str | None = None
    """Image of the egress sidecar where the url is ``docker``; None as above."""
    signals: bool = True
    """Whether SIGTERM, SIGHUP and SIGQUIT end a run as Ctrl-C does."""
    project: str
    """Name of the project under test, as a legal label value."""
    ca_bundle: str = ""
    """File with the certificates to trust, "" for those of REQUESTS_CA_BUNDLE or of requests."""
    docker_host: str = ""
    """Address of the Docker engine where DOCKER_HOST names one, else ""."""
    api_key: MaskedKey | None = None
    """Key of the server, or None; its repr hides it."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """``flag``, ``environment``, ``ini`` or ``default`` for each option's name."""

    def place_of(self, name: str) -> str:
        """Return the flag, the variable or the ini key that set an option; "default" for none of them."""
        option = next(option for option in OPTIONS if option.name == name)
        return option.place(self.sources.get(name, "default"))


def settings_of(config: pytest.Config) -> Settings:
    """Read the settings of a run from its flags, the environment and its ini file.

    Raises:
        ConfigError: a value breaks a rule; names the flag, variable or ini key.
    """
    written = read_ini(config, [option.ini for option in OPTIONS])
    return read_settings(
        flags={option.name: config.getoption(option.dest) for option in OPTIONS},
        environ=os.environ,
        inis={option.name: _absolute(config.inipath, option, written[option.ini]) for option in OPTIONS},
        project=config.rootpath.name,
    )


def read_settings(
    *,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    inis: Mapping[str, object],
    project: str = "",
) -> Settings:
    """Read the settings from the three places; an earlier place wins, an empty variable counts as not set.

    Args:
        flags: text by option name; None where not given.
        environ: environment variables.
        inis: text by option name, or what a TOML file has; None where not given.
        project: name of the project under test, any text.

    Raises:
        ConfigError: a value breaks a rule; names the flag, variable or ini key.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        written, source = _first_present(option, flags, environ, inis)
        values[option.field] = None if written is None else _read(option, written, source)
        sources[option.name] = source
    values["image"] = values["image"] or (EMBEDDED_IMAGE if values["url"] == EMBEDDED else SERVER_IMAGE)
    settings = Settings(
        **values,
        docker_host=environ.get(DOCKER_HOST_ENV, ""),
        project=label_value(project) if project else "",
        api_key=_api_key(environ),
        sources=sources,
    )
    check_resources(settings.resources, field=settings.place_of("resources"))
    return settings


def _absolute(ini_file: Path | None, option: Option, value: object) -> object:
    if value and option.metavar == FILE and ini_file is not None:
        # A run may begin in any directory; the ini file stays where it is.
        return str(ini_file.parent / Path(str(value)).expanduser())
    return value


def _first_present(
    option: Option, flags: Mapping[str, str | None], environ: Mapping[str, str], inis: Mapping[str, object]
) -> tuple[object, str]:
    # An empty flag or ini key is a value; an empty variable is how CI systems spell "not set".
    places = (
        ("flag", flags.get(option.name)),
        ("environment", _environment_text(option, environ) or None),
        ("ini", inis.get(option.name)),
    )
    return next(((value, source) for source, value in places if value is not None), (option.default, "default"))


def _environment_text(option: Option, environ: Mapping[str, str]) -> str:
    text = environ.get(option.env, "")
    if option.field != "url" or not text or "://" in text or text in (EMBEDDED, DOCKER):
        return text
    protocol = (environ.get(PROTOCOL_ENV) or "http").lower()
    if protocol not in ("http", "https"):
        raise ConfigError(PROTOCOL_ENV, "be http or https", protocol)
    return f"{protocol}://{text}"


def _read(option: Option, value: object, source: str) -> Any:
    is_list = isinstance(value, (list, dict))
    try:
        if is_list and not option.takes_lists:
            raise ValueError("be one value, not a list or a table")
        return option.parse(value if is_list else str(value))
    except ValueError as exc:
        shown = "***" if "@" in str(value) else value
        raise ConfigError(option.place(source), str(exc), shown) from None


def _api_key(environ: Mapping[str, str]) -> MaskedKey | None:
    try:
        return masked(environ.get(API_KEY_ENV)) or None
    except ConfigError as exc:
        raise ConfigError(API_KEY_ENV, exc.rule, "***") from None
