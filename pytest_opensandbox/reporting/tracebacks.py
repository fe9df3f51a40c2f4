"""Tracebacks without the frames of this package."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from types import TracebackType

import pytest


def hide_own_frames(call: pytest.CallInfo[None]) -> None:
    """Remove this package's frames from a traceback, and those of libraries that this package called."""
    if call.excinfo is None:
        return
    # The cause of one of our errors was raised in our frames; its text is enough.
    for cause in _causes(call.excinfo.value):
        cause.__traceback__ = _shortened_trace(cause.__traceback__)
    shortened = _shortened_trace(call.excinfo.tb)
    if shortened is not None and shortened is not call.excinfo.tb:
        call.excinfo = pytest.ExceptionInfo.from_exc_info((call.excinfo.type, call.excinfo.value, shortened))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that pytest shows before this one, each once."""
    seen = {id(error)}
    below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while below is not None and id(below) not in seen:
        seen.add(id(below))
        yield below
        below = below.__cause__ or (None if below.__suppress_context__ else below.__context__)


def _shortened_trace(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our frames: itself where it has none, None where it has no others."""
    kept = list(_links_of_users(trace))
    if len(kept) == len(list(_links(trace))):
        return trace
    # pytest rebuilds a filtered traceback from its raw links, so the links themselves are created anew.
    shortened = None
    for link in reversed(kept):
        shortened = TracebackType(shortened, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return shortened


def _links(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _links_of_users(trace: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the links but those of this package and of libraries called by it; the user's callbacks stay."""
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    is_behind = False
    for link in _links(trace):
        own = str(link.tb_frame.f_globals.get("__name__")).startswith("pytest_opensandbox.")
        is_behind = is_behind or own
        if not own and not (is_behind and link.tb_frame.f_code.co_filename.startswith(libraries)):
            yield link
