"""Output of a sandbox that pytest shows: it cannot control the terminal, while the test gets the exact bytes."""

import re
import textwrap

import pytest

SUITE = r"""
    import pytest

    COMMAND = r"printf 'a\033]0;pwned\007b\nc\033[2Jd\r\302\233m\n'"

    @pytest.fixture(scope="module")
    def shared(sandbox_factory):
        with sandbox_factory() as shared:
            yield shared

    @pytest.fixture
    def text(shared):
        return shared.run(COMMAND).stdout

    def test_equal(text): assert text == "abc"
    def test_stripped(text): assert text.strip() == "a\nb"
    def test_in(text): assert "zz" in text
    def test_not_in(text): assert "pwned" not in text
    def test_lines(text): assert text.splitlines() == ["a", "b"]
    def test_bytes(shared): assert shared.run(COMMAND).stdout_bytes == b"abc"
    def test_dict(text): assert {"a": text} == {"a": "b"}
    def test_result(shared): assert shared.run(COMMAND) == 5
    def test_message(text): assert not text, text
    def test_fail(text): pytest.fail(text)
    def test_raised(text): raise ValueError(text)
    def test_key(text): {}[text]
    def test_skip(text): pytest.skip(text)
    def test_xfail(text): pytest.xfail(text)
    def test_less(text): assert text < "A"
    def test_note(text): raise ValueError("x") from RuntimeError(text)
    class TestFixture:
        @pytest.fixture
        def broken(self, text):
            assert text == "abc"
        def test_it(self, broken): pass
"""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-rA",), id="plain"),
        pytest.param(("-vv", "--showlocals"), id="all of it"),
        pytest.param(("-vv", "--color=yes"), id="coloured"),
        pytest.param(("-n2", "-vv"), id="two workers"),
        pytest.param(("--tb=native", "-rA"), id="Python's own"),
        pytest.param(("--tb=line", "-rA"), id="one line"),
        pytest.param(("--full-trace",), id="our frames too"),
    ],
)
def test_what_pytest_shows_of_output_cannot_steer_the_terminal(pytester, server, options):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*options)

    shown = result.stdout.str()
    if "--color=yes" in options:
        shown = COLOUR.sub("", shown)
    assert STEERING.findall(shown) == []
    result.assert_outcomes(failed=14, errors=1, skipped=1, xfailed=1)


def test_a_comparison_is_shown_as_pytest_shows_it_with_escapes_written_out(pytester, server):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-k", "test_equal or test_not_in")

    result.stdout.fnmatch_lines(
        [
            r"E*assert 'a\x1b[]]0;pwn*m\n' == 'abc'",
            "E     - abc",
            r"E     + a\x1b[]]0;pwned\x07b",
            r"E     + c\x1b[[]2Jd\r\x9bm",
            "E     'pwned' is contained here:",
        ]
    )


def test_texts_that_look_alike_when_escaped_are_distinguished(pytester, server):
    pytester.makepyfile(
        r"""
        def test_it(sandbox):
            assert sandbox.run(r"printf '\033x'").stdout == r"\x1bx"
        """
    )

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines([r"E*- \\x1bx", r"E*+ \x1bx"])


def test_a_suite_that_uses_no_sandbox_is_shown_as_ever(pytester):
    pytester.makepyfile(r"""def test_it(): assert "a\x1b[31mb" == "c" """)

    result = pytester.runpytest_subprocess()

    assert "a\x1b[31mb" in result.stdout.str()


def test_the_section_of_a_test_without_a_sandbox_is_unchanged(pytester, server):
    pytester.makepyfile(
        r"""
        def test_first(sandbox): assert sandbox.run(r"printf 'a\033[31mb'").stdout == "c"
        def test_second(): assert "d\x1b[31me" == "f"
        """
    )

    result = pytester.runpytest_subprocess()

    assert r"a\x1b[31mb" in result.stdout.str()
    assert "a\x1b[31mb" not in result.stdout.str()
    assert "d\x1b[31me" in result.stdout.str()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("def test_it(sandbox): pytest.exit(sandbox.run(COMMAND).stdout)", id="the end of the run"),
        pytest.param(
            "def test_it(sandbox): raise KeyboardInterrupt(sandbox.run(COMMAND).stdout)", id="an interrupt's text"
        ),
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def text(sandbox_factory):
                with sandbox_factory() as shared:
                    return shared.run(COMMAND).stdout
            def test_one(request): assert request.getfixturevalue("text")
            def test_two(request): assert request.getfixturevalue("text") == "abc"
            """,
            id="a fixture that is asked for by name and was made before",
        ),
        pytest.param(
            """
            @pytest.fixture(scope="session")
            def shared(sandbox_factory):
                with sandbox_factory() as shared:
                    text = shared.run(COMMAND).stdout
                    yield
                    raise ValueError(text)
            def test_one(shared): pass
            def test_two(): pass
            """,
            id="a fixture that fails after a test without it",
        ),
        pytest.param(
            """
            from pytest_opensandbox import SandboxOpts
            def test_it(opensandbox_client, opensandbox_settings):
                shared = opensandbox_client.create_sandbox(SandboxOpts(image=opensandbox_settings.image))
                opensandbox_client.wait_ready(shared.id)
                agent = opensandbox_client.discover_execd(shared.id)
                assert opensandbox_client.run_command(agent, COMMAND).stdout == "abc"
            """,
            id="the client alone",
        ),
        pytest.param(
            """
            def test_it(sandbox, subtests):
                with subtests.test(sandbox.run(COMMAND).stdout): assert False
            """,
            id="the name of a subtest",
            marks=pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest 9 has subtests"),
        ),
    ],
)
def test_other_ways_of_output_to_the_terminal_are_closed_too(pytester, server, body):
    pytester.makepyfile(
        f"""
import pytest
COMMAND = r"printf 'steers\\033]0;pwned\\007b\\033[2Jd'"
{textwrap.dedent(body)}
"""
    )

    result = pytester.runpytest_subprocess()

    assert r"steers\x1b]0;pwned" in result.stdout.str()
    assert STEERING.findall(result.stdout.str()) == []


def test_output_stays_exact_although_it_is_shown_escaped(shared_sandbox):
    result = shared_sandbox.run(r"printf 'a\033[2J\r\n\000'")

    assert result.stdout == "a\x1b[2J\r\n\x00"
    assert type(result.stdout) is str


# The test itself prints it, and may colour it on purpose.
def test_what_a_test_prints_is_shown_unchanged(pytester, server):
    pytester.makepyfile(
        r"""
        def test_it(sandbox):
            print(sandbox.run(r"printf 'a\033[31mb'").stdout)
            assert 0
        """
    )

    result = pytester.runpytest_subprocess()

    assert "a\x1b[31mb" in result.stdout.str()


def test_a_run_without_a_terminal_goes_on(pytester, server):
    pytester.makepyfile("def test_it(sandbox): assert sandbox.run('echo hi').stdout == ''")

    result = pytester.runpytest_subprocess("-p", "no:terminal", "--junitxml=report.xml")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = (pytester.path / "report.xml").read_text()
    # pytest 8.0 cannot explain an assertion without its terminal: it has no option "verbose" then.
    assert "AssertionError" in report or "has no attribute 'verbose'" in report
