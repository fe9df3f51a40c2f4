"""What a command may be, and the circumstances in which it may run."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.opts import check_seconds


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
    words = [command] if isinstance(command, str) else list(command)
    if not words or not words[0] or not all(isinstance(word, str) for word in words):
        raise ConfigError("command", "be text, or a list of texts that begins with a program", command)
    if any("\0" in word for word in words):
        raise ConfigError("command", "hold no NUL", command)
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        raise ConfigError("command", "be text that UTF-8 can write", command) from None
