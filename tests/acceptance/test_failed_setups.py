"""Setups that fail, and files to put that are missing: each error is shown once and says what to do."""

import pytest

pytestmark = pytest.mark.thorough


def test_a_setup_that_fails_is_shown_once_and_not_run_again(pytester, server, xdist):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        @pytest.mark.sandbox(setup=["echo fine", "echo so far; echo no such package >&2; exit 3"])
        def test_it(sandbox, n): pass
    """)

    result = pytester.runpytest_subprocess(*xdist)

    result.assert_outcomes(errors=3)
    text = result.stdout.str()
    shown = "'echo so far; echo no such package >&2; exit 3' exited with 3 as setup of the sandboxes"
    assert text.count(f"opensandbox: {shown} from {server.image}, and is not run again in this run: try the") == 1
    assert text.count(f"opensandbox: {shown} from {server.image} before: see the first error about it") == 2
    assert text.count("--- stderr ---\nno such package") == text.count("--- stdout ---\nso far") == 1
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])
    assert server.leftovers() == []


def test_a_setup_that_fails_is_an_error_with_its_facts(pytester, server):
    pytester.makepyfile("""
        import pytest
        from pytest_opensandbox import CommandError, SetupError

        def test_it(sandbox_factory):
            for repeated in (False, True):
                with pytest.raises(CommandError) as caught:
                    sandbox_factory(setup="echo out; echo err >&2; exit 3")
                error = caught.value
                assert isinstance(error, SetupError)
                assert (error.exit_code, error.stdout, error.stderr) == (3, "out\\n", "err\\n")
                assert error.repeated is repeated
            with pytest.raises(SetupError, match="was ended after 0.5 s, its time limit"):
                sandbox_factory(setup="sleep 60")
    """)

    result = pytester.runpytest_subprocess("--opensandbox-setup-timeout=0.5")

    result.assert_outcomes(passed=1)
    assert server.leftovers() == []


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        pytest.param(
            "setup=3", "*setup must be a command for the shell, or a list of such commands; got 3", id="setup"
        ),
        pytest.param("put={'a': 'b'}", "*put*'a'* must be an absolute path inside the sandbox; got 'b'", id="put"),
    ],
)
def test_a_marker_that_breaks_a_rule_is_a_usage_error(pytester, marker, complaint):
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.sandbox({marker})
        def test_it(sandbox): pass
    """)

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])


def test_a_missing_file_is_named(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(put={"no/such/file": "/workspace/file"})
        def test_it(sandbox): pass
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["opensandbox: put must name a file or directory that this user can read, * (No such file or directory: /*'"]
    )


def test_an_error_about_a_missing_file_names_its_ini_key(pytester, server):
    pytester.makeini("[pytest]\nopensandbox_put = no/such/file=/workspace/file")
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: opensandbox_put must name a file or directory that this user can read*"])
