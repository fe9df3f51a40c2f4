"""Turns the text that users typed into one frozen Settings, and knows which place each value came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_opensandbox.client.sandbox_opts import check_resources, label_value
from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.settings.ini_file import read_inis
from pytest_opensandbox.settings.options import (
    API_KEY_ENV,
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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that one run was told, read and checked once."""

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
    """How long a command may take unless something nearer says otherwise; > 0."""
    server_proxy: bool
    """Whether the sandboxes are reached through the server's proxy."""
    execd_image: str | None = None
    """Image of the agent where the url is ``docker``; None for what the server's own example names."""
    egress_image: str | None = None
    """Image of the network guard where the url is ``docker``; None as above."""
    signals: bool = True
    """Whether SIGTERM, SIGHUP and SIGQUIT end a run as Ctrl-C does."""
    project: str
    """Name of the project under test, as a legal label value."""
    ca_bundle: str = ""
    """File with the certificates to trust, "" for the usual ones."""
    docker_host: str = ""
    """Address of the Docker engine where DOCKER_HOST names one, else ""."""
    api_key: MaskedKey | None = None
    """Key of the server, or None; its repr hides it."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """``flag``, ``environment``, ``ini`` or ``default`` for each option's name."""


def settings_of(config: pytest.Config) -> Settings:
    """Read the settings of a run from its flags, its ini file and the environment.

    Raises:
        pytest.UsageError: a value breaks a rule; names the place it was read from.
    """
    try:
        flags = {option.name: config.getoption(option.dest) for option in OPTIONS}
        found = read_inis(config, [option.ini for option in OPTIONS])
        inis = {option.name: _from_ini_file(config, option, found[option.ini]) for option in OPTIONS}
        return read_settings(flags=flags, environ=os.environ, inis=inis, project=config.rootpath.name)
    except ConfigError as exc:
        raise pytest.UsageError(f"opensandbox: {exc}") from None


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
        text, source = _first_present(option, flags, environ, inis)
        values[option.name] = None if text is None else _parse(option, text, source)
        sources[option.name] = source
    if values["image"] is None:
        values["image"] = EMBEDDED_IMAGE if values["url"] == EMBEDDED else SERVER_IMAGE
    _check_limits(values["resources"], sources["resources"])
    return Settings(
        url=values["url"],
        image=values["image"],
        pool=values["pool"],
        resources=values["resources"],
        setup=values["setup"],
        put=values["put"],
        setup_timeout_seconds=values["setup_timeout"],
        lease_seconds=values["lease"],
        ready_timeout_seconds=values["ready_timeout"],
        command_timeout_seconds=values["command_timeout"],
        server_proxy=values["server_proxy"],
        ca_bundle=values["ca_bundle"],
        docker_host=environ.get(DOCKER_HOST_ENV, ""),
        execd_image=values["execd_image"],
        egress_image=values["egress_image"],
        signals=values["signals"],
        project=label_value(project) if project else "",
        api_key=_key(environ),
        sources=sources,
    )


def place_of(option: Option, source: str) -> str:
    """Return the name by which a user knows the place: the flag, the variable, the ini key or "default"."""
    return {"flag": option.flag, "environment": option.env, "ini": option.ini}.get(source, source)


def _first_present(
    option: Option, flags: Mapping[str, str | None], environ: Mapping[str, str], inis: Mapping[str, object]
) -> tuple[object, str]:
    # An empty flag or ini key is somebody's word; an empty variable is how CI systems spell "not set".
    places = (
        ("flag", flags.get(option.name)),
        ("environment", _environment_text(option, environ) or None),
        ("ini", inis.get(option.name)),
    )
    return next(((value, source) for source, value in places if value is not None), (option.default, "default"))


def _environment_text(option: Option, environ: Mapping[str, str]) -> str:
    text = environ.get(option.env, "")
    if option.name != "url" or not text or "://" in text or text in (EMBEDDED, "docker"):
        return text
    protocol = (environ.get(PROTOCOL_ENV) or "http").lower()
    if protocol not in ("http", "https"):
        raise ConfigError(PROTOCOL_ENV, "be http or https", protocol)
    return f"{protocol}://{text}"


def _key(environ: Mapping[str, str]) -> MaskedKey | None:
    try:
        return masked(environ.get(API_KEY_ENV)) or None
    except ConfigError as exc:
        raise ConfigError(API_KEY_ENV, exc.rule, "***") from None


def _from_ini_file(config: pytest.Config, option: Option, value: object) -> object:
    if value and option.metavar == FILE and config.inipath is not None:
        # A run may begin in any directory; the ini file stays where it is.
        return str(config.inipath.parent / Path(str(value)).expanduser())
    return value


def _parse(option: Option, value: object, source: str) -> Any:
    try:
        return option.parse(str(value)) if not isinstance(value, (list, dict)) else _of_toml(option, value)
    except ValueError as exc:
        shown = "***" if "@" in str(value) else value
        raise ConfigError(place_of(option, source), str(exc), shown) from None


def _of_toml(option: Option, value: object) -> Any:
    if option.of_toml is None:
        raise ValueError("be one value, not a list or a table")
    return option.of_toml(value)


def _check_limits(resources: Mapping[str, str], source: str) -> None:
    option = next(option for option in OPTIONS if option.name == "resources")
    check_resources(resources, field=place_of(option, source))
