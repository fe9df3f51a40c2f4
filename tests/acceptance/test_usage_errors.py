"""Usage errors: a wrong value ends pytest with exit code 4 and one sentence, without a traceback and without tests."""

import pytest


def assert_usage_error(result, sentence):
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
    result.stdout.no_fnmatch_line("*1 passed*")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ["--opensandbox-lease=5"],
            "opensandbox: --opensandbox-lease must be whole seconds, 60 to 86400; got '5'",
            id="flag",
        ),
        pytest.param(
            ["-o", "opensandbox_server_proxy=maybe"],
            "opensandbox: opensandbox_server_proxy must be yes or no *; got 'maybe'",
            id="ini key",
        ),
        pytest.param(
            ["--opensandbox-url", "localhost:8080"],
            "opensandbox: --opensandbox-url must be 'embedded', 'docker' or a URL that begins with *",
            id="url without a scheme",
        ),
        pytest.param(
            ["--opensandbox-image="],
            "opensandbox: --opensandbox-image must be an image reference *; got ''",
            id="empty flag",
        ),
    ],
)
def test_a_bad_option_is_refused_before_anything_runs(pytester, arguments, sentence):
    pytester.makepyfile("def test_plain(): pass")

    result = pytester.runpytest_subprocess(*arguments)

    assert_usage_error(result, sentence)


def test_a_bad_variable_is_named(pytester, monkeypatch):
    monkeypatch.setenv("OPENSANDBOX_READY_TIMEOUT", "soon")
    pytester.makepyfile("def test_plain(): pass")

    result = pytester.runpytest_subprocess()

    assert_usage_error(result, "opensandbox: OPENSANDBOX_READY_TIMEOUT must be seconds, *; got 'soon'")


MARKED = """
    import pytest

    def test_plain(): pass

    @pytest.mark.sandbox({marker})
    def test_marked(sandbox): pass
"""


@pytest.mark.parametrize(
    ("marker", "sentence"),
    [
        pytest.param(
            "imgae='a'", "an argument of @pytest.mark.sandbox must be one of image, *; got 'imgae'", id="typo"
        ),
        pytest.param("'python:3.12'", "@pytest.mark.sandbox must be given by name *", id="positional"),
        pytest.param("timeout='5'", "timeout must be seconds, *; got '5'", id="wrong type"),
    ],
)
def test_a_bad_marker_names_the_test(pytester, marker, sentence):
    pytester.makepyfile(test_module=MARKED.format(marker=marker))

    result = pytester.runpytest_subprocess()

    assert_usage_error(result, f"test_module.py::test_marked: {sentence}")


def test_a_bad_marker_is_a_usage_error_with_workers_too(pytester):
    pytester.makepyfile(test_module=MARKED.format(marker="imgae='a'"))

    result = pytester.runpytest_subprocess("-n2")

    assert_usage_error(result, "test_module.py::test_marked: an argument of @pytest.mark.sandbox must be one of *")


@pytest.mark.parametrize("workers", [pytest.param([], id="alone"), pytest.param(["-n2"], id="two workers")])
def test_all_bad_markers_are_named_at_once(pytester, workers):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(imgae="x")
        def test_first(sandbox): pass

        @pytest.mark.sandbox(timeout=0)
        def test_second(sandbox): pass
    """)

    result = pytester.runpytest_subprocess(*workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_first: *imgae*", "*test_second: timeout must be seconds*"])


def test_a_bad_marker_of_a_test_that_is_not_selected_does_no_harm(pytester):
    pytester.makepyfile("""
        import pytest

        def test_plain(): pass

        @pytest.mark.sandbox(imgae='a')
        def test_marked(sandbox): pass
    """)

    result = pytester.runpytest_subprocess("-k", "plain")

    result.assert_outcomes(passed=1, deselected=1)


def test_help_lists_every_option_in_one_group(pytester):
    result = pytester.runpytest_subprocess("--help")

    result.stdout.fnmatch_lines(["OpenSandbox:", "*--opensandbox-url=URL*", "*--no-opensandbox-server-proxy*"])
    result.stdout.fnmatch_lines(["*opensandbox_command_timeout (string):*"])


def test_the_marker_is_registered_with_its_arguments(pytester):
    result = pytester.runpytest_subprocess("--markers")

    result.stdout.fnmatch_lines(["@pytest.mark.sandbox([*], image=None, env=None, resources=None, *"])
