"""One command with its settings, and the script around it that captures its output byte for byte.

The script makes two private files, runs the command as its child with a pipe for each stream, and lets ``cat`` carry
the pipes into the files. It needs pipes: a command may open ``/dev/stderr`` again, which would truncate a file.
Beyond a limit ``tail`` takes over from ``cat``, so that neither side holds much more than was asked for.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_opensandbox.client.command_run import (
    Callback,
    check_byte_limit,
    check_command,
    check_directory,
    check_time_limit,
)
from pytest_opensandbox.client.sandbox_opts import check_env

ID_VARIABLE = "OPENSANDBOX_ID"
"""Holds the sandbox's id: the server sets it, and the agent passes it on to what it runs. Some servers set none."""
REFUSAL = "!another-sandbox:"
"""Beginning of the output of a guarded script in another sandbox."""
REFUSAL_EXIT_CODE = 96
"""Exit code of a guarded script in another sandbox."""
WORKSPACE = "/workspace"
"""A directory that every sandbox has, and where commands run whose image names no working directory of its own."""
INLINE_BYTES = 32_766
"""Longest stream that the report of the script holds; a multiple of 3, so that one more byte has a longer base64."""
DIRECTORIES = ("/var/tmp", "/tmp")  # noqa: S108 - in the sandbox, and the names cannot be guessed
"""Where the files that hold the streams may be."""
NO_FILES = "-"
"""First line of the output if the script could make no files; the command's own output follows."""
ELSEWHERE = "-"
"""Replaces a stream in the report that is too long for it."""

# Without a directory or a language in the image, commands would run in / and in the locale C on some backends only.
_LANGUAGE = (
    *("LANG", "LC_ALL", "LC_CTYPE", "LC_COLLATE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME"),
    *("LC_ADDRESS", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_NAME", "LC_PAPER", "LC_TELEPHONE"),
)
_SET_LANGUAGE = f'[ -n "{"".join(f"${{{name}+x}}" for name in _LANGUAGE)}" ] || export LANG=C.UTF-8; '
_MAKE_WORKSPACE = f"[ -d {WORKSPACE} ] || mkdir -m 755 {WORKSPACE} </dev/null >/dev/null 2>&1; "
_ENTER_WORKSPACE = f'[ "$PWD" != / ] || {{ cd {WORKSPACE} && unset OLDPWD; }} 2>/dev/null; '
# The last read of cat is lost when it meets the limit, so the limit lies well beyond max_bytes.
_MARGIN_BYTES = 1024 * 1024
# dash counts a limit in 512 bytes, bash in 1,024.
_BLOCK_BYTES = 512
# These change how the script itself runs, so only the command's own process gets them.
_SHELL_VARIABLES = frozenset(
    {"BASH", "BASH_ENV", "BASHOPTS", "CDPATH", "ENV", "IFS", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "SHELLOPTS"}
    | {ID_VARIABLE}
)
# The script uses positional parameters, because its variables would hide those of the command with the same names.
# It uses descriptors, because the command may remove the files. It prefers /var/tmp, because a test may look into /tmp
# for the files of its program. It starts no program for an empty stream, because each takes more than a millisecond.
# execd keeps this script's output in /tmp as NAME.stdout and reads it by that name: if the command removed the file,
# the script makes it again.
_SCRIPT = """\
set -- {name} "${{BASH:-/bin/sh}}"
if [ -w {first} ]; then set -- "{first}/$1" "$2"; else set -- "{second}/$1" "$2"; fi
command -v cat tail >/dev/null && (umask 077 && set -C && : >"$1.1" && : >"$1.2") 2>/dev/null ||
{{ echo {no_files}; exec <{stdin}; {inner}; }}
exec 6<"$1.1" 7<"$1.2" 8>>"$1.1" 9>>"$1.2"
{{ {{ {{
({inner}) <{stdin} 2>&4 3>&- 4>&- 6<&- 7<&- 8>&- 9>&-; echo "$?" >&3
}} 4>&1 >&5 5>&- | {{ (ulimit -f {blocks}; exec cat) || tail -c {half}; }} >&9 2>/dev/null 3>&- 5>&-
}} 5>&1 | {{ (ulimit -f {blocks}; exec cat) || tail -c {half}; }} >&8 2>/dev/null 3>&-
}} 3>&1
a=; [ ! -f /dev/fd/1 ] || a=$(readlink "/proc/$$/fd/1" 2>/dev/null)
case $a in *.stdout" (deleted)") a=${{a%" (deleted)"}}
mkdir -p "${{a%/*}}" && cat <"/proc/$$/fd/1" >"$a" && exec >>"$a";; esac 2>/dev/null
a= b=
[ ! -s /dev/fd/6 ] || {{ a=$(head -c {one_more} <&6 2>/dev/null | base64 -w0 2>/dev/null); a=${{a:-{elsewhere}}}; }}
[ ! -s /dev/fd/7 ] || {{ b=$(head -c {one_more} <&7 2>/dev/null | base64 -w0 2>/dev/null); b=${{b:-{elsewhere}}}; }}
[ ${{#a}} -ge {too_long} ] && a={elsewhere}
[ ${{#b}} -ge {too_long} ] && b={elsewhere}
if [ "$a" = {elsewhere} ] || [ "$b" = {elsewhere} ]; then
[ -e "$1.1" ] || cat </dev/fd/6 >"$1.1"
[ -e "$1.2" ] || cat </dev/fd/7 >"$1.2"
else rm -f "$1.1" "$1.2" &
fi 2>/dev/null
echo "1+$a"; echo "2+$b"
"""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One command and how it runs.

    Raises:
        ConfigError: a value breaks a rule; names the field and the rule.
    """

    command: str | Sequence[str]
    """Text for the sandbox's shell, or an argument list that meets no shell."""
    cwd: str | None = None
    """Working directory."""
    env: Mapping[str, str] | None = None
    """Variables on top of the sandbox's own."""
    uid: int | None = None
    """User to run as."""
    gid: int | None = None
    """Group to run as."""
    timeout: float | None = None
    """Seconds until it is killed with its children; None for no limit."""
    stdin: bytes | None = None
    """Standard input; None for an empty one."""
    on_stdout: Callback | None = None
    """Called with each line of standard output while the command runs, without the line's end."""
    on_stderr: Callback | None = None
    """Called with each line of standard error."""
    max_bytes: int
    """Most that is kept of each stream; the middle of a longer one is left out; bytes, > 1."""
    makes_workspace: bool = False
    """Whether to make the directory that every sandbox has, where the image lacks it: the first command does."""

    def __post_init__(self) -> None:
        check_command(self.command)
        check_directory(self.cwd)
        check_time_limit(self.timeout)
        if self.env:
            check_env(self.env)
        check_byte_limit(self.max_bytes, least=2)

    @property
    def is_live(self) -> bool:
        """Whether a callback gets the lines while the command runs."""
        return self.on_stdout is not None or self.on_stderr is not None

    @property
    def agent_cwd(self) -> str | None:
        """The working directory that the agent is asked for.

        None for one that it would alter, because it expands ``$NAME``, and for one that the script makes first.
        """
        is_made_first = self.makes_workspace and self.cwd == WORKSPACE
        return None if is_made_first or (self.cwd is not None and "$" in self.cwd) else self.cwd

    @property
    def agent_env(self) -> dict[str, str]:
        """The variables that may be set for the script too."""
        return {name: value for name, value in (self.env or {}).items() if name not in _SHELL_VARIABLES}

    def plain_script(self, stdin: str) -> str:
        """Return the command as text that replaces the shell that reads it.

        Args:
            stdin: file in the sandbox that holds the standard input.
        """
        return f"exec <{stdin}; {self._inner('${BASH:-/bin/sh}')}"

    def capturing_script(self, stdin: str, name: str, *, directories: tuple[str, str] = DIRECTORIES) -> str:
        """Return text that runs the command and reports its exit code and its streams.

        Args:
            stdin: file in the sandbox that holds the standard input.
            name: beginning of the names of the files that hold the streams; ``.1`` and ``.2`` follow.
            directories: where they may be; the first is taken if it can be written, else the second.
        """
        own = {name: value for name, value in (self.env or {}).items() if name in _SHELL_VARIABLES}
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in own.items())
        return _SCRIPT.format(
            name=name,
            first=directories[0],
            second=directories[1],
            inner=self._inner("$2", exports),
            stdin=stdin,
            no_files=NO_FILES,
            elsewhere=ELSEWHERE,
            blocks=(self.max_bytes + _MARGIN_BYTES) // _BLOCK_BYTES,
            half=self.max_bytes // 2,
            one_more=INLINE_BYTES + 1,
            too_long=INLINE_BYTES // 3 * 4 + 1,
        )

    def _inner(self, shell: str, exports: str = "") -> str:
        enter = (
            _SET_LANGUAGE
            + (_MAKE_WORKSPACE if self.makes_workspace else "")
            + (_ENTER_WORKSPACE if self.cwd is None else "")
            + exports
        )
        if self.cwd != self.agent_cwd:
            enter += f"cd -- {shlex.quote(self.cwd or '')} || exit; "
        if isinstance(self.command, str):
            return f'{enter}exec "{shell}" -c {shlex.quote(self.command)} "$0"'
        words = shlex.join(self.command)
        # dash takes "--" for a program's name, bash takes a leading dash for an option.
        return f'{enter}[ -z "$BASH_VERSION" ] || exec -- {words}; exec {words}'


def guarded(script: str, sandbox_id: str) -> str:
    """Return a script that runs in this sandbox only; in another it prints that sandbox's id and runs nothing.

    Args:
        script: text for the sandbox's shell.
        sandbox_id: the sandbox; "" if it is not known, and nothing is checked.
    """
    if not sandbox_id:
        return script
    own = f'[ "${ID_VARIABLE}" = {shlex.quote(sandbox_id)} ]'
    refuse = f'{{ echo "{REFUSAL}${ID_VARIABLE}"; exit {REFUSAL_EXIT_CODE}; }}'
    return f'[ -z "${ID_VARIABLE}" ] || {own} || {refuse}\n{script}'
