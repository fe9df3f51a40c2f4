"""A sandbox's output cannot steer the terminal through what pytest itself shows; what a test holds stays exact."""

import re

import pytest

SUITE = r"""
    import pytest

    COMMAND = r"printf 'a\033]0;pwned\007b\nc\033[2Jd\r\302\233m\n'"

    @pytest.fixture(scope="module")
    def box(sandbox_factory):
        with sandbox_factory() as box:
            yield box

    @pytest.fixture
    def text(box):
        return box.run(COMMAND).stdout

    def test_equal(text): assert text == "abc"
    def test_stripped(text): assert text.strip() == "a\nb"
    def test_in(text): assert "zz" in text
    def test_not_in(text): assert "pwned" not in text
    def test_lines(text): assert text.splitlines() == ["a", "b"]
    def test_bytes(box): assert box.run(COMMAND).stdout_bytes == b"abc"
    def test_dict(text): assert {"a": text} == {"a": "b"}
    def test_result(box): assert box.run(COMMAND) == 5
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


def test_texts_that_look_alike_when_escaped_are_told_apart(pytester, server):
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


def test_output_stays_exact_whatever_is_shown_of_it(box):
    result = box.run(r"printf 'a\033[2J\r\n\000'")

    assert result.stdout == "a\x1b[2J\r\n\x00"
    assert type(result.stdout) is str


# Written by the test itself, which may have coloured it on purpose.
def test_what_a_test_prints_is_shown_as_it_was_printed(pytester, server):
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
    assert "AssertionError" in (pytester.path / "report.xml").read_text()
