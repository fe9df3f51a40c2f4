"""The output of a run: header, the section of a failed test, the JUnit file, and the summary."""

from xml.etree import ElementTree

import pytest

FAILING = """
    def test_failing(sandbox):
        sandbox.run("echo before; echo problem >&2; exit 3")
        sandbox.run(["printf", "\\\\033[31mred\\\\007\\\\000"])
        assert not "the end"
"""


def test_the_header_shows_backend_and_image_with_their_sources(pytester, monkeypatch):
    monkeypatch.setenv("OPENSANDBOX_COMMAND_TIMEOUT", "7")
    pytester.makeini("[pytest]\nopensandbox_lease = 90")

    result = pytester.runpytest_subprocess("--opensandbox-image=host")

    shown = next(line for line in result.outlines if line.startswith("opensandbox:"))
    assert shown.rpartition("=")[0] == (
        "opensandbox: embedded (default), image=host (flag), lease=90 s (ini), "
        "command_timeout=7 s (OPENSANDBOX_COMMAND_TIMEOUT), isolation=bubblewrap namespaces, run"
    )


@pytest.mark.parametrize("workers", [pytest.param((), id="one process"), pytest.param(("-n2",), id="two workers")])
def test_a_failed_test_shows_what_happened_in_its_sandbox(pytester, server, workers):
    pytester.makepyfile(FAILING)

    result = pytester.runpytest_subprocess(*workers)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"*- sandbox * ({server.image}) -*",
            f"id=*, image={server.image}, running; 2 commands",
            "$ echo before; echo problem >&2; exit 3",
            "  [[]exit 3, * s[]]",
            "  stdout| before",
            "  stderr| problem",
            "$ printf '*",
            "  [[]exit 0, * s[]]",
            r"  stdout| \x1b[[]31mred\x07\x00",
        ],
        consecutive=True,
    )


def test_a_test_that_passes_shows_nothing(pytester, server):
    pytester.makepyfile("def test_it(sandbox): sandbox.run('echo hi')")

    result = pytester.runpytest_subprocess("-rA")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*- sandbox *")


def test_a_fixture_that_fails_after_using_the_sandbox_shows_it_too(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def prepared(sandbox):
            sandbox.run("make ready", check=True)

        def test_it(prepared): pass
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*- sandbox * ({server.image}) -*", "$ make ready", "  [[]exit *"])


def test_of_a_shared_sandbox_a_failed_test_shows_its_own_commands(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def shared(sandbox_factory): return sandbox_factory()

        @pytest.fixture(scope="module")
        def other(sandbox_factory): return sandbox_factory()

        def test_first(shared, other): shared.run("echo first")

        def test_second(shared, other):
            shared.run("echo second")
            raise RuntimeError
    """)

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["id=*; 1 command", "$ echo second"])
    result.stdout.no_fnmatch_line("$ echo first")
    assert result.stdout.str().count("- sandbox ") == 1


@pytest.mark.parametrize("workers", [pytest.param((), id="one process"), pytest.param(("-n2",), id="two workers")])
def test_junits_file_stays_valid_and_holds_the_story(pytester, server, workers):
    pytester.makepyfile(FAILING)

    pytester.runpytest_subprocess("--junitxml=report.xml", *workers)

    properties = ElementTree.parse(pytester.path / "report.xml").findall(".//testcase/properties/property")
    assert [item.get("name").split()[0] for item in properties] == ["sandbox"]
    assert "$ echo before; echo problem >&2; exit 3" in properties[0].get("value")


def test_a_failed_command_shows_the_test_not_the_plugins_own_lines(pytester, server):
    pytester.makepyfile("""
        def test_it(sandbox):
            sandbox.run("echo problem >&2; exit 3", check=True)
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*sandbox.run*", "E *CommandError: *exited with 3"])
    result.stdout.no_fnmatch_line("*pytest_opensandbox/*.py:*")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("sandbox.get('/nope')", id="an error of ours, from below tenacity"),
        pytest.param("sandbox.put(pathlib.Path('/nope'), '/x')", id="an error of the standard library"),
        pytest.param("sandbox.run('true', timeout='1')", id="an argument of another type"),
    ],
)
def test_an_error_from_below_is_shown_at_the_tests_own_line(pytester, server, line):
    pytester.makepyfile(f"import pathlib\n\n\ndef test_it(sandbox):\n    {line}\n")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*sandbox.*", "test_an_error_from_below*.py:5: *Error"])
    result.stdout.no_fnmatch_line("*/pytest_opensandbox/*.py:*")
    result.stdout.no_fnmatch_line("*tenacity*")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        pytest.param([], ["*= opensandbox =*", "opensandbox: 1 created, 1 deleted, 0 swept, 0 left"], id="as usual"),
        pytest.param(["-q"], ["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"], id="quiet"),
    ],
)
def test_the_summary_follows_the_verbosity(pytester, server, arguments, lines):
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess(*arguments)

    result.stdout.fnmatch_lines(lines)
    assert ("= opensandbox =" in result.stdout.str()) == (len(lines) == 2)


def test_the_key_is_in_no_report(pytester, server):
    pytester.makepyfile("""
        def test_failing(sandbox, opensandbox_settings, opensandbox_client, pytestconfig):
            print(opensandbox_settings, opensandbox_client, sandbox)
            assert sandbox.run("env").stdout == opensandbox_settings
    """)

    result = pytester.runpytest_subprocess("--junitxml=report.xml", "--showlocals", "--full-trace", "-vv", "-n1")

    result.assert_outcomes(failed=1)
    assert server.api_key not in result.stdout.str() + result.stderr.str()
    assert server.api_key not in (pytester.path / "report.xml").read_text()


# Once it was 60 lines of the plugin's frames for each error in the chain.
def test_the_causes_of_an_error_are_shown_without_our_frames(pytester, server):
    pytester.makepyfile("def test_it(sandbox): sandbox.run('kill -9 -1; echo not reached')")

    result = pytester.runpytest_subprocess("--opensandbox-ready-timeout=10")

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*pytest_opensandbox/*.py:*")
    result.stdout.no_fnmatch_line("*invalid literal*")


def test_a_tests_own_chain_of_errors_keeps_its_frames(pytester, server):
    pytester.makepyfile(
        """
        def inner(): raise KeyError("first")
        def test_it(sandbox):
            try:
                inner()
            except KeyError as error:
                sandbox.run("exit 3", check=True)
        """
    )

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["*def inner(): raise KeyError*", "*exited with 3*"])
    result.stdout.no_fnmatch_line("*pytest_opensandbox/*.py:*")
