"""Images that a server could not pull: a run asks for each of them once, and only sandboxes that need it fail."""

from __future__ import annotations

import re
from typing import TypeGuard

from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ApiError
from pytest_opensandbox.settings.options import EMBEDDED_IMAGE

_PULL_FAILED = "IMAGE_PULL_FAILED"
_PULLED = re.compile(r"image (\S+):(?: |$)")

# The source of a sandbox, and whether it has a network policy, which a second image enforces. Either may be unmet.
_Need = tuple[str, bool]


class RefusedImages:
    """The images that the server could not pull so far."""

    def __init__(self) -> None:
        self._known: dict[_Need, tuple[str, ApiError]] = {}

    def check(self, opts: SandboxOpts) -> None:
        """Refuse an image that the server could not pull before.

        Raises:
            ApiError: it could not.
        """
        for need in _needs(opts):
            if known := self._known.get(need):
                image, error = known
                message = f"{image} could not be pulled before in this run, see the first error about it"
                raise ApiError(error.status, code=error.code, message=message)

    def note(self, opts: SandboxOpts, error: ApiError) -> bool:
        """Note that an image cannot be pulled, and add the remedy to the error.

        Returns:
            Whether other sandboxes can be created; False where it is the image of the agent, which all of them need.
        """
        need = _unmet_need(opts, _named(error))
        if need is None:
            return False
        self._known[need] = (_named(error) or opts.source, error)
        error.args = (f"{error}\n{image_advice(error)}",)
        return True


def is_about_image(error: Exception) -> TypeGuard[ApiError]:
    """Say whether a server has refused something because it could not pull an image."""
    return isinstance(error, ApiError) and error.code.endswith(_PULL_FAILED)


def image_advice(error: ApiError) -> str:
    """Return what to do about an image that cannot be pulled."""
    image = _named(error) or "the image"
    if image == EMBEDDED_IMAGE:
        return (
            f"{EMBEDDED_IMAGE!r} is what the embedded server calls this machine's own system, and no image: name one"
            " that has a shell with --opensandbox-image or the marker, such as python:3.12-slim, or use"
            " --opensandbox-url=embedded."
        )
    return (
        f"Does `docker pull {image}` work where the server runs? --opensandbox-image or the"
        " marker name the image of a sandbox, --opensandbox-execd-image and --opensandbox-egress-image those of a"
        " server on the local engine."
    )


def _named(error: ApiError) -> str | None:
    """Return the image that the server names in its refusal, None where it names none."""
    found = _PULLED.search(error.message)
    return found.group(1) if found else None


def _needs(opts: SandboxOpts) -> list[_Need]:
    """Return what a server must be able to pull for a sandbox, each alone and both together."""
    return [(opts.source, False), *([("", True), (opts.source, True)] if opts.network_policy else [])]


def _unmet_need(opts: SandboxOpts, image: str | None) -> _Need | None:
    """Return which need an image that could not be pulled leaves unmet; None where every sandbox needs it.

    Args:
        opts: what was asked for.
        image: the image that the server names, None where it names none.
    """
    if image == opts.image:
        return opts.source, False
    if image is None or opts.snapshot_id:
        # It may be the image of the snapshot, which has a name of its own.
        return opts.source, opts.network_policy is not None
    return ("", True) if opts.network_policy else None
