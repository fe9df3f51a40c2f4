"""The handle: what it says of itself, what it refuses, and that it closes once."""

import time

import pytest
import requests

from pytest_opensandbox import (
    CommandError,
    ConfigError,
    ConflictError,
    NotFoundError,
    PauseError,
    SandboxClosedError,
)


def lines_of(sandbox, command):
    """Return what a command writes to standard output, as it is called back."""
    lines = []
    sandbox.run(command, on_stdout=lines.append)
    return lines


def test_a_handle_says_what_it_is(sandbox, opensandbox_settings):
    assert repr(sandbox) == f"<Sandbox {sandbox.id} image={opensandbox_settings.image} running>"


def test_leaving_the_context_deletes_the_sandbox(sandbox_factory, opensandbox_client):
    with sandbox_factory() as sandbox:
        pass

    with pytest.raises(NotFoundError):
        opensandbox_client.get_sandbox(sandbox.id)
    assert repr(sandbox).endswith("closed>")


def test_a_second_close_does_nothing(sandbox_factory):
    sandbox = sandbox_factory()

    sandbox.close()
    sandbox.close()

    assert sandbox.state == "closed"


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda sandbox: sandbox.run("true"), id="run"),
        pytest.param(lambda sandbox: sandbox.put(b"", "/x"), id="put"),
        pytest.param(lambda sandbox: sandbox.get("/x"), id="get"),
        pytest.param(lambda sandbox: sandbox.endpoint(80), id="endpoint"),
    ],
)
def test_a_closed_handle_refuses(sandbox_factory, use):
    sandbox = sandbox_factory()
    sandbox.close()

    with pytest.raises(SandboxClosedError, match="is closed"):
        use(sandbox)


def test_check_raises_with_command_code_and_tails(shared_sandbox):
    with pytest.raises(CommandError) as caught:
        shared_sandbox.run("echo seen; echo why >&2; exit 7", check=True)

    assert str(caught.value) == (
        "'echo seen; echo why >&2; exit 7' exited with 7\n--- stdout ---\nseen\n--- stderr ---\nwhy"
    )
    assert (caught.value.exit_code, caught.value.sandbox_id) == (7, shared_sandbox.id)


def test_check_of_a_result_does_the_same(shared_sandbox):
    with pytest.raises(CommandError, match="exited with 1"):
        shared_sandbox.run("false").check()


def test_a_result_has_its_duration_and_is_exact(shared_sandbox):
    result = shared_sandbox.run("sleep 0.2")

    assert result.duration >= 0.2
    assert (result.ok, result.exact, result.timed_out, result.truncated, result.signal) == (
        True,
        True,
        False,
        False,
        None,
    )


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda sandbox, command: sandbox.run(command).stdout.splitlines(), id="exact"),
        pytest.param(lambda sandbox, command: lines_of(sandbox, command), id="live"),
    ],
)
def test_commands_begin_in_the_workspace_and_in_utf_8(shared_sandbox, run):
    assert run(shared_sandbox, "pwd; echo $LANG; env | grep -c ^OLDPWD=") == ["/workspace", "C.UTF-8", "0"]


def test_the_workspace_can_be_named_by_the_first_command(sandbox):
    assert sandbox.run("pwd", cwd="/workspace").stdout == "/workspace\n"


def test_a_command_runs_after_another_has_removed_the_workspace(sandbox):
    sandbox.run("rm -r /workspace", check=True)

    assert sandbox.run("pwd; ls /workspace").stdout == "/\n"


@pytest.mark.sandbox(env={"LC_TIME": "de_DE.UTF-8"})
def test_a_sandbox_that_is_asked_for_a_language_has_no_other(sandbox):
    assert sandbox.run("env | grep -E '^(LANG|LC_)'").stdout == "LC_TIME=de_DE.UTF-8\n"


# The first address of that name is ::1 on one machine and 127.0.0.1 on the next.
@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "0.0.0.0"])
def test_a_service_is_reached_wherever_it_listens(sandbox, address):
    sandbox.put("hello", "/workspace/page")
    sandbox.run(f"python3 -m http.server --bind {address} 8123 >/dev/null 2>&1 &", check=True)
    endpoint = sandbox.endpoint(8123)

    for _ in range(200):
        answer = requests.get(f"{endpoint.url}/page", headers=dict(endpoint.headers), timeout=30)
        if answer.status_code != 502:  # which means that no server listens yet
            break
        time.sleep(0.05)

    assert (answer.status_code, answer.text) == (200, "hello")


def test_history_tells_the_last_commands(shared_sandbox):
    shared_sandbox.run("echo first")
    shared_sandbox.run(["sh", "-c", "exit 2"])

    assert [record.outcome for record in shared_sandbox.history][-2:] == ["exit 0", "exit 2"]
    assert shared_sandbox.history[-2].stdout_tail == "first\n"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"command": ""}, "command", id="empty text"),
        pytest.param({"command": []}, "command", id="empty list"),
        pytest.param({"command": ["echo", 1]}, "command", id="a word that is no text"),
        pytest.param({"command": "a\0b"}, "command", id="NUL"),
        pytest.param({"command": "true", "timeout": 0}, "timeout", id="no time"),
        pytest.param({"command": "true", "gid": 5}, "gid", id="gid alone"),
        pytest.param({"command": "true", "env": {"A=B": "x"}}, "env", id="name of a variable"),
        pytest.param({"command": "true", "env": {"A": "\udcff"}}, "env", id="value that UTF-8 cannot write"),
        pytest.param({"command": "echo \udcff"}, "command must be text that UTF-8", id="word that UTF-8 cannot write"),
        pytest.param({"command": "true", "max_bytes": 1}, "max_bytes", id="too few bytes"),
    ],
)
def test_a_bad_argument_is_named(shared_sandbox, arguments, field):
    with pytest.raises(ConfigError, match=field):
        shared_sandbox.run(**arguments)


def test_the_environment_of_a_sandbox_is_that_of_its_creation(sandbox_factory):
    with sandbox_factory(env={"GREETING": "hello"}) as sandbox:
        assert sandbox.run("echo $GREETING").stdout == "hello\n"


def test_a_paused_sandbox_goes_on_where_it_was_once_it_is_resumed(sandbox_factory):
    with sandbox_factory() as sandbox:
        sandbox.run("echo kept > /var/tmp/file")
        sandbox.pause()
        paused = repr(sandbox)
        with pytest.raises(PauseError, match=r"resume\(\) it first"):
            sandbox.run("true")

        sandbox.resume()

        assert paused.endswith("paused>")
        assert sandbox.run("cat /var/tmp/file").stdout == "kept\n"


def test_a_paused_sandbox_can_be_closed(sandbox_factory, opensandbox_client):
    sandbox = sandbox_factory()
    sandbox.pause()

    sandbox.close()

    with pytest.raises(NotFoundError):
        opensandbox_client.get_sandbox(sandbox.id)


def test_what_is_not_paused_is_not_resumed(shared_sandbox):
    with pytest.raises(ConflictError):
        shared_sandbox.resume()


ODD = (3, 1.5, True, b"x", "\ud800", "a\0b", {"a": 1}, [3], object(), print, 10**30)


@pytest.mark.parametrize(
    ("field", "call", "fitting"),
    [
        pytest.param("command", lambda sandbox, odd: sandbox.run(odd), ({"a": 1},), id="run"),
        pytest.param("command", lambda sandbox, odd: sandbox.run(["true", odd]), (), id="a word"),
        pytest.param("input", lambda sandbox, odd: sandbox.run("true", input=odd), (b"x", "a\0b"), id="input"),
        pytest.param(
            "max_bytes", lambda sandbox, odd: sandbox.run("true", max_bytes=odd), (3, 10**30), id="run, max_bytes"
        ),
        pytest.param("src", lambda sandbox, odd: sandbox.put(odd, "/tmp/x"), (b"x", "a\0b"), id="src"),
        pytest.param("mode", lambda sandbox, odd: sandbox.put("x", "/tmp/x", mode=odd), (3, True), id="mode"),
        pytest.param("dst", lambda sandbox, odd: sandbox.get("/etc/passwd", odd), (), id="dst"),
        pytest.param(
            "max_bytes", lambda sandbox, odd: sandbox.get("/etc/passwd", max_bytes=odd), (3, 10**30), id="get"
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_argument(sandbox, field, call, fitting):
    for odd in ODD:
        if any(odd is good or odd == good for good in fitting if type(odd) is type(good)):
            continue
        with pytest.raises(ConfigError, match=f"^{field} must "):
            call(sandbox, odd)
