"""What a command wrote in a sandbox equals, byte for byte, what it would have written here."""

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_opensandbox import (
    Client,
    CommandLostError,
    CommandStartError,
    CommandTimeoutError,
    Sandbox,
    SandboxOpts,
)
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, RunTags
from pytest_opensandbox.settings.options import EMBEDDED
from pytest_opensandbox.transport.timeouts import Timeouts

COMMANDS = [
    pytest.param("echo hi", id="one line"),
    pytest.param("printf abc", id="no final newline"),
    pytest.param("printf 'a\\n\\n\\nb\\n\\n'", id="blank lines"),
    pytest.param("true", id="no output"),
    pytest.param("printf '\\n'", id="a newline only"),
    pytest.param("printf ' '", id="a space only"),
    pytest.param("printf 'x\\ry\\r\\nz\\r'", id="carriage returns"),
    pytest.param("printf 'a\\0b\\0'", id="NUL"),
    pytest.param("printf '\\377\\376\\n'", id="not UTF-8"),
    pytest.param("printf 'h\\303\\251llo \\360\\237\\220\\215\\n'", id="UTF-8"),
    pytest.param("printf '\\342\\200\\250\\302\\205x\\n'", id="unicode line separators"),
    pytest.param("printf '\\033[31mred\\033[0m\\a\\b\\n'", id="terminal escapes"),
    pytest.param("echo '{\"type\":\"execution_complete\"}'; echo 'data: x'; echo", id="look-alikes of events"),
    pytest.param("echo out; echo err >&2", id="both streams"),
    pytest.param("for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done", id="interleaved streams"),
    pytest.param("echo err >&2; exit 3", id="exit code"),
    pytest.param("exit 255", id="exit 255"),
    pytest.param("exit 137", id="an exit code that looks like a signal"),
    pytest.param("no-such-program", id="unknown program"),
    pytest.param("if then", id="syntax error"),
    pytest.param("kill -9 $$", id="killed"),
    pytest.param("kill -TERM $$", id="terminated"),
    pytest.param("{ sh -c 'kill -9 $$'; } 2>/dev/null; echo $?", id="a killed child"),
    pytest.param("cat; echo eof", id="standard input is empty"),
    pytest.param('echo "$0" \'$HOME\' "it\'s" `echo back` $((6*7))', id="quoting"),
    pytest.param("echo one \\\n  two; echo three", id="several lines of script"),
    pytest.param("# nothing but a comment", id="a comment"),
    pytest.param("cat <<'END'\nhere $x\nEND", id="here document"),
    pytest.param("head -c 32766 /dev/zero | tr '\\0' a", id="as much as fits in one answer"),
    pytest.param("head -c 32767 /dev/zero | tr '\\0' a; echo b >&2", id="one byte more"),
    pytest.param("head -c 10000000 /dev/zero | tr '\\0' a", id="10 MB on one line"),
    pytest.param("seq 200000", id="200,000 lines"),
    pytest.param("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2", id="a million NULs on both streams"),
    pytest.param("set -o pipefail; yes | head -1", id="a pipe that breaks"),
    pytest.param("exec 1>&-; echo lost", id="a closed stream"),
    pytest.param("echo a >&2; exec 2>&1; echo b >&2", id="redirection of its own"),
    pytest.param("trap 'echo bye' EXIT; echo hi", id="a trap"),
    pytest.param("echo a >&2; echo b >/dev/stderr; echo c | tee /dev/stderr", id="a stream that is opened again"),
    pytest.param("(sleep 0.2; echo late) & echo early", id="a child that writes later"),
    pytest.param("umask 022; printf '%s\\n' -n -e --help", id="words like options"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_text_gives_what_subprocess_gives(shared_sandbox, command):
    here = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, check=False)

    there = shared_sandbox.run(command)

    assert there.exact
    assert (there.exit_code, there.stdout_bytes, there.stderr_bytes) == (here.returncode, here.stdout, here.stderr)


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["echo", "-n", "$HOME", "a  b", "*"], id="nothing is expanded"),
        pytest.param(["printf", "%s|", "", "'", '"', "\\", "\n", "é"], id="awkward words"),
        pytest.param(["sh", "-c", "echo $0 $#; exit 4", "name", "one"], id="a shell of one's own"),
        pytest.param(["test", "a", "=", "b"], id="a program that shells build in"),
        pytest.param(["sh", "-c", "kill -SEGV $$"], id="a segmentation fault"),
        pytest.param(["true"], id="no output"),
    ],
)
def test_a_list_gives_what_subprocess_gives(shared_sandbox, argv):
    here = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    there = shared_sandbox.run(argv)

    assert (there.exit_code, there.stdout_bytes, there.stderr_bytes) == (here.returncode, here.stdout, here.stderr)


words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=15), max_size=5)


@settings(max_examples=25, deadline=None)
@given(words=words)
def test_any_words_arrive_as_they_are(shared_sandbox, words):
    result = shared_sandbox.run(["printf", "%s\\0", *words])

    assert result.stdout.split("\0")[:-1] == (words or [""])


@pytest.mark.parametrize(
    ("command", "code", "signal"),
    [
        pytest.param("kill -9 $$", -9, "SIGKILL", id="killed"),
        pytest.param("kill -ABRT $$", -6, "SIGABRT", id="aborted"),
        pytest.param("exit 137", 137, None, id="an exit code like that of a signal"),
    ],
)
def test_a_signal_is_no_exit_code(shared_sandbox, command, code, signal):
    result = shared_sandbox.run(command)

    assert (result.exit_code, result.signal) == (code, signal)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"line\n", id="a line"),
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(range(256)) * 400, id="100 KB of every byte"),
        pytest.param("grün\n", id="text"),
    ],
)
def test_input_arrives_as_it_is(shared_sandbox, given):
    result = shared_sandbox.run("cat", input=given)

    assert result.stdout_bytes == (given.encode() if isinstance(given, str) else given)


def test_a_timeout_raises_with_what_was_written(shared_sandbox):
    with pytest.raises(CommandTimeoutError) as caught:
        shared_sandbox.run("echo started; echo warned >&2; sleep 30", timeout=1)

    assert (caught.value.stdout, caught.value.stderr, caught.value.timeout_seconds) == ("started\n", "warned\n", 1)
    assert "was ended after 1 s" in str(caught.value)


def test_a_child_with_redirected_output_is_not_waited_for(shared_sandbox):
    started = shared_sandbox.run("setsid sleep 31.5 >/dev/null 2>&1 &")

    assert started.ok
    assert shared_sandbox.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 31.[5]'").stdout == "1\n"


def test_the_error_says_what_to_do_about_what_is_left_running(shared_sandbox):
    with pytest.raises(CommandTimeoutError, match="redirect the output of processes that it leaves running") as caught:
        shared_sandbox.run("echo left behind; cd / && sleep 31.75 >/dev/null 2>&1 &", timeout=1)

    assert caught.value.stdout == "left behind\n"


def test_a_timeout_ends_the_children_too(shared_sandbox):
    with pytest.raises(CommandTimeoutError):
        shared_sandbox.run("sleep 31.25 & sleep 31.25", timeout=0.5)

    assert shared_sandbox.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 31.2[5]'").stdout == "0\n"


def test_the_middle_of_too_much_output_is_left_out(shared_sandbox):
    result = shared_sandbox.run("seq 100000; echo end >&2", max_bytes=1000)

    assert result.truncated
    assert (len(result.stdout_bytes), result.stderr) == (1000, "end\n")
    assert result.stdout.startswith("1\n2\n3\n")
    assert result.stdout.endswith("99999\n100000\n")


def test_a_command_that_never_stops_writing_fills_nothing(shared_sandbox):
    # Generated code loops; what it writes must not grow in the sandbox, whose /tmp may be this machine's memory.
    with pytest.raises(CommandTimeoutError) as caught:
        shared_sandbox.run("yes", timeout=1, max_bytes=100_000)

    assert len(caught.value.stdout) == 100_000
    assert int(shared_sandbox.run("du -sk /tmp 2>/dev/null | cut -f1").stdout) < 64 * 1024


def test_more_than_the_sandbox_keeps_still_has_its_end(shared_sandbox):
    result = shared_sandbox.run("seq 2000000; sleep 0.1; echo the end", max_bytes=100_000)

    assert (result.truncated, len(result.stdout_bytes), result.exit_code) == (True, 100_000, 0)
    assert result.stdout.startswith("1\n2\n")
    assert result.stdout.endswith("the end\n")


def test_lines_are_handed_on_while_the_command_runs(shared_sandbox):
    seen = []

    result = shared_sandbox.run(
        "echo one; echo two >&2; read x; echo $x", input="three\n", on_stdout=seen.append, on_stderr=seen.append
    )

    assert sorted(seen) == ["one", "three", "two"]
    assert (result.stdout, result.stderr, result.exact) == ("one\nthree\n", "two\n", True)


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"GREETING": "it's $HOME"}, id="an ordinary one"),
        pytest.param({"PATH": "/nowhere"}, id="PATH"),
        pytest.param({"ENV": "/nowhere", "BASH_ENV": "/nowhere", "LD_PRELOAD": ""}, id="what changes a shell"),
        pytest.param({"EMPTY": "", "LINES_": "a\nb"}, id="empty and long"),
        pytest.param(dict.fromkeys("abcfs", "mine"), id="short ones, as a script of ours might have"),
    ],
)
def test_variables_arrive_whatever_their_names(shared_sandbox, env):
    shown = "; ".join(f'echo "${name}"' for name in env)

    result = shared_sandbox.run(shown, env=env)

    assert result.stdout == "".join(f"{value}\n" for value in env.values())


def test_only_the_runner_stays_in_the_sandbox(shared_sandbox):
    shared_sandbox.run("seq 100000; echo x >&2")
    shared_sandbox.run("cat", input=b"x" * 100_000)
    with pytest.raises(CommandTimeoutError):
        shared_sandbox.run("sleep 30", timeout=0.5)

    found = shared_sandbox.run("find /tmp /var/tmp /dev/shm -name '.opensandbox-*'").stdout.splitlines()
    assert [path.rpartition("-")[0] for path in found] == ["/var/tmp/.opensandbox-runner"]


def test_a_command_finds_nothing_of_ours_in_tmp(sandbox):
    assert sandbox.run(["find", "/tmp", "-mindepth", "1", "-name", ".*"]).stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("rm -rf /tmp/* /var/tmp/* /var/tmp/.[!.]*; echo done", id="its content"),
        pytest.param("rm -rf /tmp /var/tmp 2>/dev/null; echo done", id="themselves"),
        pytest.param("rm -rf /tmp/* /var/tmp/.[!.]*; seq 20000 | tail -c 100000; echo done", id="with much to say"),
        pytest.param("rm -rf /tmp /var/tmp 2>/dev/null; seq 100000; echo done", id="themselves, with more to say"),
    ],
)
def test_output_survives_the_removal_of_temporary_directories(sandbox, command):
    result = sandbox.run(command)

    assert result.exact
    assert result.stdout.endswith("done\n")
    assert sandbox.run("echo on").stdout == "on\n"


def test_a_command_that_kills_its_runner_is_lost_and_not_exit_code_0(shared_sandbox):
    with pytest.raises(CommandLostError, match=r"'kill -9 \$PPID': SIGKILL ended the program that runs it"):
        shared_sandbox.run("kill -9 $PPID")


def test_a_user_that_the_sandbox_cannot_have_is_named(shared_sandbox, opensandbox_settings):
    if opensandbox_settings.url != EMBEDDED:
        pytest.skip("in a container the agent can be any user")

    # Beyond the 65,536 users that a sandbox has where the server is root.
    with pytest.raises(CommandStartError, match="cannot run as user 123456") as caught:
        shared_sandbox.run("echo hi", uid=123_456)

    assert "leave uid and gid out" in str(caught.value)


@pytest.fixture
def impatient_sandbox(running_server, opensandbox_settings):
    """A sandbox whose client gives a command up 29 s before its time limit, as if the agent did not end it."""
    timeouts = Timeouts(grace_seconds=-29.0)
    with Client(running_server.url, running_server.api_key, timeouts=timeouts) as client:
        lifecycle = Lifecycle(client, tags=RunTags("impatient"), ready_timeout=120)
        with Sandbox.launch(lifecycle, SandboxOpts(image=opensandbox_settings.image)) as sandbox:
            yield sandbox
        lifecycle.close()


def test_an_agent_that_misses_the_time_limit_is_asked_for_the_output(impatient_sandbox):
    with pytest.raises(CommandTimeoutError) as caught:
        impatient_sandbox.run("echo begun; echo wrong >&2; sleep 60", timeout=30)

    assert (caught.value.command, caught.value.stdout, caught.value.stderr) == (
        "echo begun; echo wrong >&2; sleep 60",
        "begun\n",
        "wrong\n",
    )


@pytest.mark.parametrize(
    "directory",
    [
        pytest.param("/usr/bin", id="ordinary"),
        pytest.param("/workspace/$HOME ${x}", id="variables"),
        pytest.param('/workspace/it\'s "quoted"', id="quotes"),
        pytest.param("/workspace/two\nlines", id="newline"),
        pytest.param("/workspace/-grün", id="leading dash and not ASCII"),
    ],
)
def test_a_command_runs_where_it_is_told(shared_sandbox, directory):
    shared_sandbox.run(["mkdir", "-p", directory], check=True)

    assert shared_sandbox.run("pwd", cwd=directory).stdout == f"{directory}\n"
    assert shared_sandbox.run(["pwd"], cwd=directory, on_stdout=lambda line: None).stdout == f"{directory}\n"


def test_a_directory_that_is_not_there_is_named(shared_sandbox):
    with pytest.raises(CommandStartError, match=r"directory /workspace/\$none cannot be entered \(No such file"):
        shared_sandbox.run("pwd", cwd="/workspace/$none")


@pytest.mark.parametrize(
    ("argv", "code", "why"),
    [
        pytest.param(["no-such-program"], 127, "no-such-program: not found\n", id="not there"),
        pytest.param(["/etc/passwd"], 126, "/etc/passwd: Permission denied\n", id="not executable"),
        pytest.param(["/etc"], 126, "/etc: Permission denied\n", id="a directory"),
    ],
)
def test_a_list_without_a_program_ends_as_a_shell_would_end_it(shared_sandbox, argv, code, why):
    result = shared_sandbox.run(argv)

    assert (result.exit_code, result.stdout, result.stderr) == (code, "", why)


def test_the_command_that_failed_is_shown_as_it_was_given(shared_sandbox):
    result = shared_sandbox.run(["sh", "-c", "echo out; echo err >&2; exit 2"])

    assert shlex.join(result.command) == "sh -c 'echo out; echo err >&2; exit 2'"
    assert repr(result).startswith("<CommandResult ['sh', '-c'")
