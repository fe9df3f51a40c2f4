"""Commands that do what commands do: fork, detach, close, stop, kill, fill and hide; their results stay right."""

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_opensandbox import CommandLostError, CommandStartError, CommandTimeoutError
from pytest_opensandbox.settings.options import EMBEDDED

GIB = 1024**3

# Each is one text for bash, what it writes to standard output, and its exit code.
CASES = [
    pytest.param("ls /proc/self/fd", "0\n1\n2\n3\n", 0, id="no descriptor but the three, and ls's own"),
    pytest.param("umask", "0022\n", 0, id="the usual umask"),
    pytest.param(
        "grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2 | sort -u", "0" * 16 + "\n", 0, id="no signal ignored"
    ),
    pytest.param("[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none", "none\n", 0, id="no terminal"),
    pytest.param("(: </dev/tty) 2>/dev/null || echo none", "none\n", 0, id="no controlling terminal"),
    pytest.param(
        '[ "$(ps -o pgid= $$ 2>/dev/null || cut -d" " -f5 /proc/$$/stat)" -eq $$ ] && echo own',
        "own\n",
        0,
        id="a group of its own",
    ),
    pytest.param("exec 0<&- 1>&- 2>&-; exit 5", "", 5, id="all streams closed"),
    pytest.param("exec >&-; sleep 0.1; exit 6", "", 6, id="it goes on without standard output"),
    pytest.param("exec echo replaced", "replaced\n", 0, id="exec"),
    pytest.param("exec -a other bash -c 'echo $0'", "other\n", 0, id="another name"),
    pytest.param("sleep 0.1 & kill -STOP $!; kill -CONT $!; wait; echo on", "on\n", 0, id="stopped and continued"),
    pytest.param("(sleep 0.2; kill -CONT $$) & kill -STOP $$; echo on", "on\n", 0, id="it stops itself"),
    pytest.param("sleep 0.01 & sleep 0.1; echo done", "done\n", 0, id="a zombie for a while"),
    pytest.param(
        "(setsid sh -c 'sleep 0.2; echo late' &) ; echo early", "early\nlate\n", 0, id="a double fork that writes"
    ),
    pytest.param("nohup sh -c 'echo kept' 2>/dev/null", "kept\n", 0, id="nohup"),
    pytest.param("nohup sleep 30 >/dev/null 2>&1 & echo gone", "gone\n", 0, id="nohup in the background"),
    pytest.param(
        "setsid -f sleep 30 >/dev/null 2>&1; echo gone", "gone\n", 0, id="a daemon with its streams elsewhere"
    ),
    pytest.param("trap '' TERM; kill $$; echo alive", "alive\n", 0, id="a signal that is ignored"),
    pytest.param("trap 'exit 9' TERM; kill $$; sleep 1", "", 9, id="a signal that is handled"),
    pytest.param("trap 'kill 0' EXIT; sleep 100 & echo hi", "hi\n", -15, id="it ends its whole group"),
    pytest.param("kill -INT $$", "", -2, id="SIGINT"),
    pytest.param("kill -PIPE $$", "", -13, id="SIGPIPE"),
    pytest.param("kill -35 $$", "", -35, id="a real-time signal"),
    pytest.param("kill -SEGV $$", "", -11, id="SIGSEGV"),
    pytest.param("ulimit -c 0; exec sh -c 'kill -QUIT $$'", "", -3, id="SIGQUIT"),
    pytest.param("exit 130", "", 130, id="an exit code like SIGINT"),
    pytest.param("exit 256", "", 0, id="an exit code beyond all"),
    pytest.param("(exit 141); echo $?", "141\n", 0, id="a child's exit code like SIGPIPE"),
    pytest.param(
        "cat /proc/$PPID/environ | tr '\\0' '\\n' | grep '^OPENSANDBOX_RUNNER_REQUEST=.'",
        "",
        1,
        id="no trace of the request",
    ),
    pytest.param(
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'needle in a [h]ay' ",
        "0\n",
        1,
        id="its text once in the list",
    ),
    pytest.param("echo $SHLVL $OLDPWD", "1\n", 0, id="one level of shells"),
    pytest.param("env -i /usr/bin/env", "", 0, id="an empty environment"),
    pytest.param("printf %s a b c >/proc/self/fd/1", "abc", 0, id="its stream by another name"),
    pytest.param(
        "for i in 1 2 3; do echo $i >/dev/stdout; done", "1\n2\n3\n", 0, id="its stream opened again and again"
    ),
    pytest.param("echo x | tee /dev/stderr >/dev/null; echo y >&2", "", 0, id="only standard error"),
    pytest.param("dd if=/dev/zero bs=1 count=3 2>/dev/null | od -An -tx1", " 00 00 00\n", 0, id="bytes of a pipe"),
    pytest.param("yes | head -n 1", "y\n", 0, id="a pipe that is closed early"),
    pytest.param(
        "rm -rf /tmp/* /dev/shm/* 2>/dev/null; echo emptied", "emptied\n", 0, id="it empties the temporary directories"
    ),
    pytest.param("ulimit -n 20; echo few", "few\n", 0, id="few descriptors"),
    pytest.param("ulimit -f 0; echo no files", "no files\n", 0, id="no file may grow"),
    pytest.param("(ulimit -v 200000; echo little)", "little\n", 0, id="little memory"),
    pytest.param(
        "cd / && rmdir /workspace 2>/dev/null; mkdir -p /workspace; echo back",
        "back\n",
        0,
        id="the workspace made anew",
    ),
]


@pytest.mark.parametrize(("command", "stdout", "exit_code"), CASES)
def test_a_command_gives_what_it_gives_elsewhere(shared_sandbox, command, stdout, exit_code):
    result = shared_sandbox.run(command)

    assert (result.stdout, result.exit_code, result.exact) == (stdout, exit_code, True)


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"PATH": "/srv/stubs:/usr/local/bin:/usr/bin:/bin"}, id="programs of the same names"),
        pytest.param({"SHELLOPTS": "errexit:nounset"}, id="options of the shell"),
        pytest.param({"BASH_FUNC_echo%%": "() { printf stub; }", "BASH_FUNC_exec%%": "() { :; }"}, id="functions"),
        pytest.param({"LC_ALL": "xx_YY.UTF-8"}, id="a locale that is not there"),
        pytest.param({"POSIXLY_CORRECT": "1"}, id="POSIX"),
        pytest.param({"IFS": "x", "CDPATH": "/", "ENV": "/nowhere", "BASH_ENV": "/nowhere"}, id="of a shell"),
        pytest.param({"LD_PRELOAD": "/nowhere.so", "LD_LIBRARY_PATH": "/nowhere"}, id="of the loader"),
        pytest.param({"OPENSANDBOX_RUNNER_REQUEST": "mine", "TMPDIR": "/nowhere", "HOME": ""}, id="ours"),
    ],
)
def test_the_environment_of_a_command_changes_nothing_of_ours(shared_sandbox, env):
    for name in ("cat", "head", "tail", "base64", "rm", "mkdir"):
        shared_sandbox.put("#!/bin/sh\necho stub\n", f"/srv/stubs/{name}", mode=0o755)

    signal = shared_sandbox.run("kill -9 $$", env=env)
    code = shared_sandbox.run("exit 143", env=env)
    listed = shared_sandbox.run(["/bin/echo", "out"], env=env)

    assert [result.exit_code for result in (signal, code, listed)] == [-9, 143, 0]
    assert (listed.stdout, listed.exact) == ("out\n", True)


def test_only_the_command_is_in_the_list_of_processes(shared_sandbox):
    shared_sandbox.run("exec -a my-daemon sleep 600 >/dev/null 2>&1 &")

    found = [shared_sandbox.run(["pgrep", "-f", name]).exit_code for name in ("no-such-daemon", "my-daemon")]
    ended = shared_sandbox.run(["pkill", "-f", "my-daemon"])

    assert (found, ended.exit_code) == ([1, 0], 0)


def test_a_list_gets_exactly_the_variables_that_it_is_given(shared_sandbox):
    names = {"PATH", "HOME", "LANG", "OPENSANDBOX_ID"}

    given = shared_sandbox.run(["env"], env={"A": "1", "PWD": "mine"}).stdout.splitlines()

    assert {"A=1", "PWD=mine"} <= set(given)
    assert {line.partition("=")[0] for line in given} & {"_", "SHLVL", "OLDPWD", "OPENSANDBOX_RUNNER_REQUEST"} == set()
    assert names - {line.partition("=")[0] for line in given} <= {"HOME", "OPENSANDBOX_ID"}


def test_the_end_of_a_gibibyte_is_kept(shared_sandbox):
    result = shared_sandbox.run(f"head -c {GIB} /dev/zero; echo the end", max_bytes=1_000_000)

    assert (result.exit_code, result.truncated, len(result.stdout_bytes)) == (0, True, 1_000_000)
    assert result.stdout_bytes.endswith(b"\0the end\n")


def test_a_text_of_a_megabyte_runs_with_the_same_name(shared_sandbox):
    result = shared_sandbox.run(": " + "x" * 1_000_000 + "\necho $0 $#; cat; ls /proc/self/fd", input="in\n")

    assert (result.stdout, result.exit_code) == ("bash 0\nin\n0\n1\n2\n3\n", 0)


def test_a_list_that_linux_does_not_take_is_told_with_advice(shared_sandbox):
    with pytest.raises(CommandStartError, match=r"[Aa]rgument list too long; long text fits into a file") as caught:
        shared_sandbox.run(["echo", "x" * 200_000])

    assert len(str(caught.value)) < 1_500


def test_a_list_of_a_megabyte_runs(shared_sandbox):
    words = [f"/workspace/file{number:06d}" for number in range(40_000)]

    assert shared_sandbox.run(["printf", "%s\n", *words]).stdout.splitlines() == words


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("sleep 32.5 & setsid sleep 32.5 & sleep 32.5", id="a session of its own"),
        pytest.param("(setsid sh -c 'sleep 32.5 & sleep 32.5' &); sleep 32.5", id="a double fork"),
        pytest.param("trap '' TERM INT HUP; sleep 32.5 & sleep 32.5", id="signals ignored"),
        pytest.param("sleep 32.5 & kill -STOP $!; kill -STOP $$", id="stopped processes"),
        pytest.param("for i in $(seq 200); do setsid sleep 32.5 >/dev/null 2>&1 & done; sleep 32.5", id="many"),
        pytest.param("f() { sleep 0.01; f & f & }; f 2>/dev/null; sleep 32.5", id="processes that multiply"),
    ],
)
def test_a_time_limit_ends_every_descendant(shared_sandbox, command):
    with pytest.raises(CommandTimeoutError) as caught:
        shared_sandbox.run(f"ulimit -u 600 2>/dev/null; echo begun; {command}", timeout=1)

    left = shared_sandbox.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 32.[5]'")
    assert (caught.value.stdout, left.stdout) == ("begun\n", "0\n")


def test_lines_arrive_in_order_and_the_result_is_exact(shared_sandbox):
    out, err = [], []

    result = shared_sandbox.run(
        "for i in 1 2 3; do echo $i >/dev/stderr; echo $i >/proc/self/fd/1; printf '%s\\r' p$i; sleep 0.05; done;"
        " printf x",
        on_stdout=out.append,
        on_stderr=err.append,
    )

    assert err == ["1", "2", "3"]
    assert out == ["1", "p1", "2", "p2", "3", "p3", "x"]
    assert (result.stdout, result.exact) == ("1\np1\r2\np2\r3\np3\rx", True)


def test_long_output_leaves_no_file(shared_sandbox):
    result = shared_sandbox.run("seq 50000; seq 50000 >&2")

    assert (result.stdout, result.stderr) == ("".join(f"{number}\n" for number in range(1, 50_001)),) * 2
    assert "-out" not in shared_sandbox.run("ls -A /var/tmp /tmp").stdout


def test_long_output_survives_the_removal_of_its_file(shared_sandbox):
    result = shared_sandbox.run("seq 100000; rm /var/tmp/.opensandbox-*-out; seq 100001 150000")

    assert (result.stdout, result.exact) == ("".join(f"{number}\n" for number in range(1, 150_001)), True)


def test_long_output_that_is_moved_away_is_an_error(shared_sandbox):
    moving = "exec 2>/dev/null; while sleep 0.01; do mv /var/tmp/.opensandbox-*-out /tmp/; done"
    with shared_sandbox.start(moving), pytest.raises(CommandLostError, match="did not arrive"):
        shared_sandbox.run("seq 300000; sleep 0.5")


def test_a_list_runs_in_a_sandbox_without_any_shell(sandbox_factory, opensandbox_settings):
    if opensandbox_settings.url != EMBEDDED:
        pytest.skip("the real agent is started by a shell of the image, and starts commands by it")
    with sandbox_factory() as sandbox:
        shells = [
            f"{directory}/{name}" for directory in ("/bin", "/usr/bin") for name in ("sh", "bash", "dash", "rbash")
        ]
        sandbox.run(["rm", "-f", *shells], check=True)

        assert sandbox.run(["printf", "%s", "no shell"]).stdout == "no shell"
        with pytest.raises(CommandStartError, match="has no shell for text"):
            sandbox.run("echo hi")


ENDINGS = st.one_of(
    st.integers(0, 255).map(lambda code: f"exit {code}"),
    st.sampled_from([1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 34, 35, 64]).map(lambda number: f"kill -{number} $$"),
)
SIZES = st.sampled_from([0, 1, 49_151, 49_152, 49_153, 65_535, 65_536, 65_537, 99_999, 100_000, 100_001, 200_000])


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(out=st.binary(max_size=300), err=st.binary(max_size=300), size=SIZES, on=st.sampled_from([1, 2]), end=ENDINGS)
def test_generated_commands_equal_those_of_subprocess(shared_sandbox, out, err, size, on, end):
    escaped = ["".join(f"\\{byte:03o}" for byte in stream) for stream in (out, err)]
    text = f"printf '{escaped[0]}'; printf '{escaped[1]}' >&2; head -c {size} /dev/zero >&{on}; {end}"
    here = subprocess.run(["bash", "-c", text], stdin=subprocess.DEVNULL, capture_output=True, check=False)

    there = shared_sandbox.run(text)

    assert (there.exit_code, there.stdout_bytes, there.stderr_bytes) == (here.returncode, here.stdout, here.stderr)
    assert there.exact
