"""The agent as a process: its start and its end, its access token, and what it does not route."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.embedded.agent_process import ROOT, Agent, eventually, exists, running_agent, texts


def test_the_end_of_the_lifeline_ends_the_agent_and_its_commands() -> None:
    reading, writing = os.pipe()
    with running_agent("--lifeline-fd", str(reading), fds=[reading]) as agent:
        children = start_everything(agent)

        os.close(writing)

        assert agent.process.wait(10) == 0
        assert eventually(lambda: not any(exists(child) for child in children))
    os.close(reading)


def test_a_signal_ends_the_agent_and_its_commands() -> None:
    with running_agent() as agent:
        children = start_everything(agent)

        agent.process.terminate()

        assert agent.process.wait(10) == 128 + 15
        assert eventually(lambda: not any(exists(child) for child in children))


def start_everything(agent: Agent) -> list[int]:
    """Start a command in the background, one that leaves a child, and return the processes."""
    background = agent.start("echo $$; exec sleep 60")
    leader = int(eventually(lambda: agent.get(f"/command/{background}/logs").text))
    return [leader, int(texts(agent.run("sleep 60 & echo $!"))[0])]


@pytest.mark.parametrize(
    ("entrypoint", "status"),
    [
        pytest.param(["sh", "-c", "exit 0"], 0, id="success"),
        pytest.param(["sh", "-c", "exit 3"], 3, id="failure"),
        pytest.param(["sh", "-c", "kill -9 $$"], 137, id="killed"),
        pytest.param(["/no/such/program"], 127, id="not found"),
        pytest.param(["/etc/passwd"], 126, id="not a program"),
    ],
)
def test_the_end_of_the_entrypoint_is_the_end_of_the_agent(entrypoint: list[str], status: int) -> None:
    with running_agent(entrypoint=entrypoint) as agent:
        assert agent.process.wait(10) == status


def test_the_entrypoint_writes_to_where_the_agent_writes() -> None:
    with running_agent(entrypoint=["sh", "-c", "echo from the entrypoint >&2"]) as agent:
        agent.process.wait(10)

        assert agent.process.stderr is not None
        assert agent.process.stderr.read() == "from the entrypoint\n"


def test_an_inherited_socket_is_listened_on(tmp_path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = start_on(listener)
    with process, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        answer = connection.recv(4096)
        process.terminate()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def start_on(listener: socket.socket) -> subprocess.Popen[bytes]:
    """Start an agent the way that the embedded server does: isolated, with the libraries put on its path."""
    found = [importlib.util.find_spec(name) for name in ("waitress.server", "python_multipart.multipart")]
    folders = sorted({str(ROOT), *(str(Path(spec.origin).parents[spec.name.count(".")]) for spec in found)})
    code = f"import sys; sys.path[:0] = {folders}; from pytest_opensandbox.embedded.agent.__main__ import main; main()"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, "--listen-fd", str(listener.fileno())], pass_fds=[listener.fileno()]
    )


def test_starting_loads_nothing_that_is_heavy_and_rarely_needed() -> None:
    heavy = {"_ssl", "asyncio", "ctypes", "email", "http.client", "inspect", "python_multipart", "requests", "uuid"}
    code = f"""
import os, sys
leave = os._exit
os._exit = lambda status: (print(sorted({heavy!r} & set(sys.modules)), flush=True), leave(status))
from pytest_opensandbox.embedded.agent.__main__ import main
main(["--listen", "127.0.0.1:0", "--", "true"])
"""

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )

    assert done.stdout == "[]\n"


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_opensandbox.embedded.agent", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    for word in ("--listen", "--listen-fd", "--lifeline-fd", "--linger", "ENTRYPOINT", "EXECD_ACCESS_TOKEN"):
        assert word in done.stdout


def test_commands_see_neither_the_token_nor_what_python_adds() -> None:
    """Python sets LC_CTYPE for itself when the locale is C; ExecD, which is no Python, does not."""
    with running_agent(environment={"EXECD_ACCESS_TOKEN": "t", "LC_ALL": "", "LANG": "", "LC_CTYPE": "C"}) as agent:
        agent.session.headers["X-EXECD-ACCESS-TOKEN"] = "t"

        assert texts(agent.run("env | grep -e EXECD_ACCESS -e ^LC_CTYPE")) == ["LC_CTYPE=C"]


@pytest.mark.parametrize("path", ["/ping", "/nothing", "/proxy/1/x", "/wrong/ping", "/ping/right"])
@pytest.mark.parametrize("token", [pytest.param(None, id="none"), pytest.param("wrong", id="wrong")])
def test_a_request_without_the_token_is_refused(path: str, token: str | None) -> None:
    with running_agent(environment={"EXECD_ACCESS_TOKEN": "right"}) as agent:
        answer = agent.get(path, headers={} if token is None else {"X-EXECD-ACCESS-TOKEN": token})

    assert answer.status_code == 401
    assert answer.json() == {"error": "Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN"}


@pytest.mark.parametrize("path", ["/right/ping", "/right/proxy/44772/ping", "/right//ping"])
def test_the_token_may_be_the_first_segment_of_the_path(path: str) -> None:
    with running_agent(environment={"EXECD_ACCESS_TOKEN": "right"}) as agent:
        answer = agent.get(path)

    assert answer.status_code == (404 if "//" in path else 200)


def test_a_stream_stays_open_as_long_as_asked() -> None:
    """Execd to 1.1 keeps the response open for a second; a client has to stop at the terminal event."""
    with running_agent("--linger", "0.5") as agent:
        chunks = agent.post("/command", json={"command": "true"}, stream=True).iter_content(None)
        assert any(b"execution_complete" in chunk for chunk in chunks)
        seen = time.monotonic()
        rest = list(chunks)
        lingered = time.monotonic() - seen

    assert rest == []
    assert lingered > 0.4


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("HEAD", "/ping", id="HEAD is not routed"),
        pytest.param("OPTIONS", "/ping", id="nor is OPTIONS"),
        pytest.param("PUT", "/command", id="a method that is not there"),
        pytest.param("GET", "/command/x", id="a path that is not there"),
    ],
)
def test_what_is_not_routed_is_a_404_in_plain_text(agent: Agent, method: str, path: str) -> None:
    answer = agent.request(method, path)

    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/plain")
    assert answer.text == ("" if method == "HEAD" else "404 page not found")


def test_metrics_are_watched_a_line_each(agent: Agent) -> None:
    with agent.get("/metrics/watch", stream=True) as answer:
        line = next(answer.iter_lines())

    assert answer.headers["Content-Type"] == "text/event-stream"
    assert line.startswith(b'{"cpu_count":')
