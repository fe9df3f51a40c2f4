"""Records of where runs had their sandboxes, by run id in pytest's cache, so that a sweep finds them; never the key."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_opensandbox.settings.options import DOCKER, EMBEDDED
from pytest_opensandbox.settings.settings import Settings

_LAST_RUN = "opensandbox/last_run"
_RUNS = "opensandbox/runs"
_RUNS_KEPT = 50


@dataclass(frozen=True, kw_only=True)
class Place:
    """The server of a run: everything that finds its sandboxes again, but for the key."""

    url: str
    """``embedded``, ``docker``, or the URL of the server."""
    ca_bundle: str = ""
    """File with the certificates to trust, "" for the usual ones."""
    docker_host: str = ""
    """Address of the Docker engine as DOCKER_HOST had it, "" for the usual one."""

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """Return the place of a run with these settings."""
        return cls(url=settings.url, ca_bundle=settings.ca_bundle, docker_host=settings.docker_host)

    def applied_to(self, settings: Settings) -> Settings:
        """Return settings for a sweep of this place; a url that was given as a flag stays."""
        if settings.sources.get("url") == "flag":
            return settings
        return replace(
            settings,
            url=self.url,
            ca_bundle=settings.ca_bundle or self.ca_bundle,
            docker_host=settings.docker_host or self.docker_host,
        )

    def sweep_command(self, run_id: str) -> str:
        """Return the command that deletes what a run has left here; it works in any directory, and in any shell."""
        words = ["python", "-m", "pytest_opensandbox", "sweep", "--run", run_id, f"--opensandbox-url={self.url}"]
        if self.ca_bundle:
            words.append(f"--opensandbox-ca-bundle={self.ca_bundle}")
        engine = f"DOCKER_HOST={shlex.quote(self.docker_host)} " if self.url == DOCKER and self.docker_host else ""
        return engine + shlex.join(words)


def remember(config: pytest.Config, run_id: str, settings: Settings) -> None:
    """Record the place of a run that is about to have sandboxes, and delete the oldest records."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    cache.set(_LAST_RUN, run_id)
    cache.set(f"{_RUNS}/{run_id}", asdict(Place.of(settings)))
    # Another process of the run may be deleting, too; a cache that cannot be written must not fail the test.
    with suppress(OSError):
        kept = sorted(_path(config, _RUNS).iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in kept[_RUNS_KEPT:]:
            path.unlink(missing_ok=True)


def last_run(config: pytest.Config) -> str:
    """Return the id of the last run in this directory that asked for a sandbox, "" where none is known."""
    found = _read(_path(config, _LAST_RUN))
    return found if isinstance(found, str) else ""


def place_of_run(config: pytest.Config, run_id: str) -> Place | None:
    """Return where a run had its sandboxes, None where this directory does not know it."""
    found = _read(_path(config, _RUNS) / run_id) if re.fullmatch(r"\w+", run_id) else None
    return _place(found) if isinstance(found, Mapping) else None


def other_servers(config: pytest.Config) -> list[str]:
    """Return the URLs of the servers, not embedded, that runs in this directory used."""
    with suppress(OSError):
        places = [place_of_run(config, path.name) for path in _path(config, _RUNS).iterdir()]
        return sorted({place.url for place in places if place is not None and place.url != EMBEDDED})
    return []


def _place(found: Mapping[str, Any]) -> Place | None:
    try:
        place = Place(**found)
    except TypeError:
        return None
    return place if all(isinstance(value, str) for value in asdict(place).values()) else None


def _path(config: pytest.Config, key: str) -> Path:
    """Return where pytest's cache has a value; its plugin opens the cache for a run of tests only."""
    directory = os.path.expanduser(os.path.expandvars(str(config.getini("cache_dir"))))
    return Path(config.rootpath, directory, "v", key)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
