"""A person at a terminal: in a test, and by the command `shell`."""

import sys

import pexpect
import pytest

from pytest_opensandbox import Client, SandboxOpts

TEST = """
def test_look_around(sandbox):
    sandbox.put("in the sandbox", "/workspace/note")
    code = sandbox.shell()
    assert code == 7
"""


@pytest.fixture
def terminal(tmp_path):
    """Start a Python program in a terminal."""
    programs = []

    def start(*words, env=None):
        programs.append(
            pexpect.spawn(sys.executable, ["-m", *words], cwd=str(tmp_path), env=env, timeout=60, dimensions=(30, 100))
        )
        return programs[-1]

    yield start
    for program in programs:
        program.close(force=True)


def test_a_test_opens_a_shell_in_its_sandbox(terminal, tmp_path):
    (tmp_path / "test_it.py").write_text(TEST)
    program = terminal("pytest", "-p", "no:cacheprovider", "test_it.py")

    program.expect(r"[#$] ")
    program.sendline("cat note; stty size")
    program.expect("in the sandbox")
    program.expect("30 100")
    program.sendline("echo be''gun; sleep 100")
    program.expect("begun")
    program.sendintr()
    program.expect(r"[#$] ")
    program.sendline("exit 7")
    program.expect("1 passed")


def test_the_command_opens_a_shell_in_a_sandbox_that_runs(terminal, running_server, opensandbox_settings):
    with Client(running_server.url, running_server.api_key) as client:
        sandbox = client.create_sandbox(SandboxOpts(image=opensandbox_settings.image))
        try:
            client.wait_ready(sandbox.id)
            url = f"--opensandbox-url={running_server.url}"
            program = terminal(
                "pytest_opensandbox",
                "shell",
                sandbox.id,
                "--run",
                "echo hello; exit 5",
                url,
                env={"OPEN_SANDBOX_API_KEY": running_server.api_key, "PATH": "/usr/bin:/bin"},
            )
            program.expect("hello")
            program.expect(pexpect.EOF)
            program.close()
        finally:
            client.delete_sandbox(sandbox.id)

    assert program.exitstatus == 5


def test_without_a_terminal_the_error_says_so(pytester):
    pytester.makepyfile("""
        import os
        import pytest
        from pytest_opensandbox import ConfigError

        def test_it(sandbox):
            if os.fork() == 0:
                os.setsid()
                try:
                    sandbox.shell("true")
                except ConfigError as exc:
                    os._exit(0 if "where there is a terminal" in str(exc) else 1)
                os._exit(2)
            assert os.wait()[1] == 0
    """)

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
