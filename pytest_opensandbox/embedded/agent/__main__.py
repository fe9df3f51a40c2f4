"""The agent's command line and its end: ``python -m pytest_opensandbox.embedded.agent --listen 127.0.0.1:44772``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from .init import become_init
from .start_state import set_start_state

EPILOG = """\
environment:
  EXECD_ACCESS_TOKEN   when set, each request must carry it in the header X-EXECD-ACCESS-TOKEN
  EXECD_ENVS           a file of NAME=VALUE lines, read anew for each command

Commands run with the environment of the agent. It ends, and ends what it started, on SIGTERM, when the entrypoint
ends, and when the lifeline is closed.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal, the entrypoint or the lifeline ends the agent; never returns.

    Args:
        arguments: the command line by default.
    """
    options = _parser().parse_args(arguments)
    _close_others(options)
    set_start_state(most_processes=options.processes)
    become_init()
    _restore_environment()
    token = os.environ.pop("EXECD_ACCESS_TOKEN", "")
    _leave_out_openssl()
    from .server import make_app, make_server  # they read the environment, which commands inherit

    server = make_server(make_app(token=token, linger_seconds=options.linger), _listener(options))
    signal.signal(signal.SIGTERM, lambda *_: end(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: end(128 + signal.SIGINT))
    if options.lifeline_fd is not None:
        threading.Thread(target=_end_with_lifeline, args=(options.lifeline_fd,), daemon=True).start()
    # Before the first response: a sandbox whose entrypoint cannot start must not look ready.
    if options.entrypoint:
        process = _start_entrypoint(options.entrypoint)
        threading.Thread(target=_end_with_entrypoint, args=(process,), daemon=True).start()
    server.run()
    end(0)


def end(status: int) -> NoReturn:
    """Kill everything that the agent started, and exit at once."""
    from .processes import kill_all

    kill_all()
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opensandbox-agent",
        description="ExecD's HTTP API for the machine, container or namespace that it runs in.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--listen", metavar="HOST:PORT", help="TCP address to listen on; port 0 takes a free one")
    where.add_argument("--listen-fd", type=int, metavar="N", help="inherited socket that already listens")
    parser.add_argument("--lifeline-fd", type=int, metavar="N", help="inherited pipe; its end of file ends the agent")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="most processes and threads at a time, where the kernel counts them"
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long a command's event stream stays open after its last event (default 0; execd up to 1.1: 1)",
    )
    parser.add_argument(
        "entrypoint", nargs="*", metavar="-- ENTRYPOINT", help="program to start; the agent ends when it does"
    )
    return parser


def _close_others(options: argparse.Namespace) -> None:
    """Close descriptors that are not for the agent, where it was given some; the server may leave others open."""
    if options.listen_fd is None:
        return
    kept = {0, 1, 2, options.listen_fd, options.lifeline_fd}
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in kept:
            with suppress(OSError):  # that of the listing itself
                os.close(descriptor)


def _listener(options: argparse.Namespace) -> socket.socket:
    if options.listen_fd is not None:
        return socket.socket(fileno=options.listen_fd)
    host, _, port = options.listen.rpartition(":")
    listener = socket.create_server((host or "0.0.0.0", int(port)))  # noqa: S104 - execd listens everywhere
    print("listening on {}:{}".format(*listener.getsockname()[:2]), file=sys.stderr, flush=True)  # noqa: T201
    return listener


def _restore_environment() -> None:
    """Restore LC_CTYPE, which Python sets for itself where the locale is C, so that commands do not see it."""
    with suppress(OSError), open("/proc/self/environ", "rb") as file:
        given = [entry for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
        os.environ.pop("LC_CTYPE", None)
        for entry in given:
            os.environ["LC_CTYPE"] = os.fsdecode(entry.partition(b"=")[2])


def _leave_out_openssl() -> None:
    """Keep hmac and http.client from loading OpenSSL: nothing here needs it."""
    for name in ("ssl", "_hashlib"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None makes an import fail


def _end_with_lifeline(lifeline: int) -> NoReturn:
    with suppress(OSError):
        while os.read(lifeline, 4096):
            pass
    end(0)


def _start_entrypoint(argv: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - as asked
    except OSError as exc:
        print(f"entrypoint {argv[0]}: {exc.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        end(127 if isinstance(exc, FileNotFoundError) else 126)


def _end_with_entrypoint(entrypoint: subprocess.Popen[bytes]) -> NoReturn:
    from .processes import WatchedProcess, shell_status

    WatchedProcess(entrypoint).ended.wait()
    end(shell_status(entrypoint.returncode))


if __name__ == "__main__":
    main()
