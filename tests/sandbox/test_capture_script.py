"""The script around a command: the same in every shell that a sandbox may have."""

import base64
import shutil
import subprocess
import tempfile
from dataclasses import replace

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.sandbox.capture_script import (
    INLINE_BYTES,
    NO_FILES,
    REFUSAL,
    REFUSAL_EXIT_CODE,
    Invocation,
    guarded,
)

SHELLS = [name for name in ("bash", "dash", "ash", "busybox") if shutil.which(name)]
COMMANDS = [
    pytest.param("echo out; echo err >&2; exit 3", id="both streams"),
    pytest.param("printf 'a\\0\\377\\r'", id="awkward bytes"),
    pytest.param("echo a; echo b >/dev/stdout; echo c | tee /dev/stderr", id="a stream that is opened again"),
    pytest.param('read x; echo "$x"; cat', id="standard input"),
    pytest.param("echo $0 $# ${1-none} ${f-none} ${a-none}", id="nothing of the script is seen"),
    pytest.param("exec 1>&- 2>&-; exit 4", id="closed streams"),
    pytest.param(["printf", "%s|", "-n", "$HOME", "it's", ""], id="a list"),
    pytest.param(["no-such-program"], id="a program that is not there"),
]


def arguments(shell):
    return ["busybox", "sh", "-c"] if shell == "busybox" else [shell, "-c"]


def run_script(shell, script):
    return subprocess.run([*arguments(shell), script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_report_holds_the_exit_code_and_both_streams(tmp_path, shell, command):
    given = tmp_path / "in"
    given.write_text("first\nsecond\n")
    whole = command if isinstance(command, list) else [*arguments(shell), command]
    if shutil.which(whole[0]):
        with given.open() as file:
            here = subprocess.run(whole, stdin=file, capture_output=True, check=False)
        expected = (here.returncode, here.stdout)
    else:
        expected = (127, b"")

    outer = run_script(
        shell,
        Invocation(command=command, max_bytes=100_000).capturing_script(given, "f", directories=(tmp_path, tmp_path)),
    )

    exit_code, stdout, stderr = outer.stdout.splitlines()
    assert (int(exit_code), base64.b64decode(stdout.removeprefix("1+"))) == expected
    assert bool(base64.b64decode(stderr.removeprefix("2+"))) == ("err" in str(command) or "no-such" in str(command))
    assert outer.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stream_that_is_too_long_for_the_report_lies_in_its_file(tmp_path, shell):
    command = f"head -c {INLINE_BYTES + 1} /dev/zero; echo short >&2"

    outer = run_script(
        shell,
        Invocation(command=command, max_bytes=100_000).capturing_script(
            "/dev/null", "f", directories=(tmp_path, tmp_path)
        ),
    )

    assert outer.stdout.splitlines() == ["0", "1+-", "2+" + base64.b64encode(b"short\n").decode()]
    assert (tmp_path / "f.1").read_bytes() == bytes(INLINE_BYTES + 1)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_keeps_the_beginning_and_the_end_and_stays_bounded(tmp_path, shell):
    # Runaway output must fill neither the sandbox's disk nor, where that is in memory, this machine.
    command = "echo the beginning; head -c 20000000 /dev/zero; sleep 0.1; echo the end"

    run_script(
        shell,
        Invocation(command=command, max_bytes=100_000).capturing_script(
            "/dev/null", "f", directories=(tmp_path, tmp_path)
        ),
    )

    kept = (tmp_path / "f.1").read_bytes()
    assert kept.startswith(b"the beginning\n")
    assert kept.endswith(b"the end\n")
    assert 100_000 < len(kept) < 4_000_000


@pytest.mark.parametrize("shell", SHELLS)
def test_a_report_whose_file_the_command_removed_is_found_by_its_name(tmp_path, shell):
    # execd opens the file in /tmp that holds this script's output anew for each look.
    output = tmp_path / "tmp" / "1.stdout"
    output.parent.mkdir()
    invocation = Invocation(command=f"rm -r {output.parent}; echo done; exit 3", max_bytes=100)
    script = invocation.capturing_script("/dev/null", "f", directories=(tmp_path, tmp_path))

    with output.open("w+b") as file:
        subprocess.run([*arguments(shell), script], stdout=file, check=True)

    exit_code, stdout, _ = output.read_text().splitlines()
    assert exit_code == "3"
    assert stdout.endswith("+" + base64.b64encode(b"done\n").decode())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_report_into_a_file_that_has_no_name_stays_in_it(tmp_path, shell):
    script = Invocation(command="echo done", max_bytes=100).capturing_script(
        "/dev/null", "f", directories=(tmp_path, tmp_path)
    )

    with tempfile.TemporaryFile() as file:
        subprocess.run([*arguments(shell), script], stdout=file, check=True)
        file.seek(0)
        said = file.read()

    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_place_for_files_the_command_takes_the_scripts_place(tmp_path, shell):
    script = Invocation(command="echo out; kill -9 $$", max_bytes=100).capturing_script(
        "/dev/null", tmp_path / "no" / "f"
    )

    outer = run_script(shell, script)

    assert (outer.returncode, outer.stdout, outer.stderr) == (-9, f"{NO_FILES}\nout\n", "")


def test_only_the_first_command_makes_the_workspace_and_enters_it():
    later = Invocation(command="true", cwd="/workspace", max_bytes=100)
    first = replace(later, makes_workspace=True)

    assert (first.agent_cwd, later.agent_cwd) == (None, "/workspace")
    assert "mkdir -m 755 /workspace" in first.plain_script("/dev/null")
    assert "mkdir -m 755 /workspace" not in later.plain_script("/dev/null")


def test_variables_that_change_a_shell_are_for_the_command_alone():
    invocation = Invocation(command="true", env={"PATH": "/x y", "HOME": "/h"}, max_bytes=100)

    assert invocation.agent_env == {"HOME": "/h"}
    assert "export PATH='/x y'; exec" in invocation.capturing_script("/dev/null", "/tmp/f")


@pytest.mark.parametrize(
    ("cwd", "given"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("/a b", "/a b", id="one that the agent takes as it is"),
        pytest.param("/a$b", None, id="one that the agent would expand"),
    ],
)
def test_the_agent_gets_a_directory_only_if_it_leaves_it_alone(cwd, given):
    assert Invocation(command="true", cwd=cwd, max_bytes=100).agent_cwd == given


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"command": [], "max_bytes": 9}, "command", id="no word"),
        pytest.param({"command": "true", "env": {"": "x"}, "max_bytes": 9}, "env", id="a variable without a name"),
        pytest.param({"command": "true", "max_bytes": 1}, "max_bytes", id="too few bytes for both ends"),
        pytest.param({"command": "true", "max_bytes": "9"}, "max_bytes", id="text for a number of bytes"),
        pytest.param({"command": "true", "cwd": "rel", "max_bytes": 9}, "^cwd must be the absolute", id="relative"),
        pytest.param({"command": "true", "timeout": "5", "max_bytes": 9}, "^timeout", id="text for seconds"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_its_name(arguments, field):
    with pytest.raises(ConfigError, match=field):
        Invocation(**arguments)


def run_guarded(shell, script, *, variable):
    env = {"PATH": "/usr/bin:/bin"} | ({} if variable is None else {"OPENSANDBOX_ID": variable})
    done = subprocess.run([*arguments(shell), script], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("variable", ["s1", "", None], ids=["its own", "empty", "not set"])
def test_a_guarded_script_runs_in_its_own_sandbox_and_without_an_id(variable, shell):
    assert run_guarded(shell, guarded("echo hi; exit 3", "s1"), variable=variable) == (3, "hi\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_guarded_script_does_nothing_in_another_sandbox(shell):
    ended = run_guarded(shell, guarded("echo hi", "s1"), variable="s2")

    assert ended == (REFUSAL_EXIT_CODE, f"{REFUSAL}s2\n")


def test_an_endpoint_made_by_hand_has_no_sandbox_to_compare_with():
    assert guarded("echo hi", "") == "echo hi"
