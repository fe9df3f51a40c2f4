"""The `sandbox` fixture: a fresh sandbox for one test, deleted afterwards."""


def test_a_command_returns_its_output(sandbox):
    assert sandbox.run("echo hi").stdout == "hi\n"


def test_an_exit_code_is_data(sandbox):
    result = sandbox.run("echo oops >&2; exit 3")

    assert (result.exit_code, result.stderr) == (3, "oops\n")


def test_nothing_is_left_of_the_test_before(sandbox):
    sandbox.put("mine", "/workspace/note")

    assert sandbox.run(["ls", "/workspace"]).stdout == "note\n"
