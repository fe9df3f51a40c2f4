"""What a session's script prints: the command's own output, then what the session has become, between markers."""

from __future__ import annotations

import re

LONGEST_LINE_BYTES = 16 * 1024 * 1024

_VARIABLES_BEGIN, _VARIABLES_END = "__ENV_DUMP_START__", "__ENV_DUMP_END__"
_CWD, _EXIT_CODE = "__PWD__:", "__EXIT_CODE__:"
_EXPORT = re.compile(r"declare -x ([A-Za-z_][A-Za-z0-9_]*)(?:=(.*))?", re.DOTALL)
_UNQUOTABLE = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

EPILOGUE = f"""\
__USER_EXIT_CODE__=$?
printf '\\n%s\\n' {_VARIABLES_BEGIN}
export -p
printf '%s\\n' {_VARIABLES_END}
printf '{_CWD}%s\\n' "$(pwd)"
printf '{_EXIT_CODE}%s\\n' "$__USER_EXIT_CODE__"
exit "$__USER_EXIT_CODE__"
"""
"""The end of a session's script."""


class LineTooLongError(Exception):
    """A line longer than a session can carry."""


class Transcript:
    """Reads what a session's script prints.

    Attributes:
        variables: exported variables at the end of the run; empty when the script did not get that far.
        cwd: the directory at the end of the run; empty likewise.
        exit_code: that of the command; None likewise.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.cwd = ""
        self.exit_code: int | None = None
        self._held = b""
        self._in_variables = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines of output that end within ``data``; blank ones are dropped.

        Raises:
            LineTooLongError: a line of 16 MiB or more.
        """
        *lines, self._held = (self._held + data).split(b"\n")
        if max(map(len, (*lines, self._held))) >= LONGEST_LINE_BYTES:
            raise LineTooLongError
        return [line for line in map(self._shown, lines) if line]

    def end(self) -> list[bytes]:
        """Return the unfinished last line, if there is one."""
        return self.feed(b"\n") if self._held else []

    def _shown(self, line: bytes) -> bytes:
        """Return a line of output, or nothing when it belongs to the markers."""
        line = line.removesuffix(b"\r")
        if not self._in_variables and not line.startswith(b"__"):
            return line
        text = line.decode("utf-8", "surrogateescape")
        if text in (_VARIABLES_BEGIN, _VARIABLES_END):
            self._in_variables = text == _VARIABLES_BEGIN
        elif text.startswith(_EXIT_CODE):
            code = text.removeprefix(_EXIT_CODE)
            self.exit_code = int(code) if code.isdecimal() else self.exit_code
        elif text.startswith(_CWD):
            self.cwd = text.removeprefix(_CWD)
        elif self._in_variables:
            self._note(text)
        else:
            return line
        return b""

    def _note(self, text: str) -> None:
        """Note a line of ``export -p``; the further lines of a value with line breaks are lost, as in ExecD."""
        match = _EXPORT.fullmatch(text)
        if match:
            self.variables[match[1]] = _unquoted(match[2] or "")


def _unquoted(value: str) -> str:
    """Undo bash's quotes the way ExecD does, which leaves the backslash before ``$`` and a backtick in place."""
    match = _UNQUOTABLE.fullmatch(value)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else value.strip('"')
