"""What a command may be, the circumstances in which it may run, and what may be copied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from pytest_opensandbox.client.sandbox_opts import check_seconds
from pytest_opensandbox.errors import ConfigError


def check_directory(cwd: str | None) -> None:
    """Refuse what cannot be a working directory; which one a relative path would mean is not known here.

    Raises:
        ConfigError: not absolute, or it holds NUL; None is fine, and so is what the agent makes absolute.
    """
    if cwd is not None and (not isinstance(cwd, str) or not cwd.startswith(("/", "~", "$")) or "\0" in cwd):
        raise ConfigError("cwd", "be the absolute path of a directory in the sandbox, such as '/workspace'", cwd)


def check_time_limit(timeout: float | None) -> None:
    """Refuse what is no time limit.

    Raises:
        ConfigError: no number, not more than 0, or longer than a year.
    """
    if timeout is not None:
        check_seconds("timeout", timeout, rule="be seconds, more than 0, or None for no limit")


def check_command(command: str | Sequence[str]) -> None:
    """Refuse what no process can be given.

    Raises:
        ConfigError: no text and no list of texts, nothing at all, or it holds NUL or what UTF-8 cannot write.
    """
    words = [command] if isinstance(command, str) else list(command) if isinstance(command, Iterable) else []
    if not words or not words[0] or not all(isinstance(word, str) for word in words):
        raise ConfigError("command", "be text, or a list of texts that begins with a program", command)
    if any("\0" in word for word in words):
        raise ConfigError("command", "hold no NUL", command)
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        raise ConfigError("command", "be text that UTF-8 can write", command) from None


def input_bytes(given: bytes | str | None) -> bytes | None:
    """Return the standard input of a command as bytes; text becomes UTF-8.

    Raises:
        ConfigError: neither, or text that UTF-8 cannot write.
    """
    if given is None:
        return None
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    return text_bytes("input", given)


def text_bytes(field: str, given: object) -> bytes:
    """Return text as UTF-8.

    Args:
        field: what the caller calls it, for the message.
        given: the text.

    Raises:
        ConfigError: no text, or some that UTF-8 cannot write.
    """
    try:
        if isinstance(given, str):
            return given.encode()
    except UnicodeEncodeError:
        pass
    raise ConfigError(field, "be bytes, or text that UTF-8 can write", given)


def check_mode(mode: int | None) -> None:
    """Refuse what are no permission bits; whether they are in range is checked where they are sent.

    Raises:
        ConfigError: no whole number; None is fine.
    """
    if mode is not None and not isinstance(mode, int):
        raise ConfigError("mode", "be permission bits, 0 to 0o777, such as 0o755", mode)


def check_byte_limit(max_bytes: int, *, least: int) -> None:
    """Refuse what is no number of bytes.

    Raises:
        ConfigError: no whole number, or less than ``least``.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < least:
        raise ConfigError("max_bytes", f"be a whole number of bytes, at least {least}", max_bytes)


def check_local_path(field: str, path: str | os.PathLike[str]) -> None:
    """Refuse what names no file of this machine.

    Args:
        field: what the caller calls it, for the message.
        path: as text or a path object.

    Raises:
        ConfigError: something else, or a name that no file can have.
    """
    try:
        if isinstance(path, (str, os.PathLike)) and b"\0" not in os.fsencode(path):
            return
    except UnicodeEncodeError:
        pass
    raise ConfigError(field, "be a local path, as text or a path object", path)
