"""``parametrize("sandbox", ..., indirect=True)``: each value gives another sandbox or is refused."""

import pytest

# The backend does not matter here, and a running server saves each test the start of one.
pytestmark = [pytest.mark.usefixtures("server"), pytest.mark.thorough]


def suite(pytester, values, *, body="", marker="", more=""):
    pytester.makepyfile(f"""
        import pytest

        {more}

        {marker}
        @pytest.mark.parametrize("sandbox", {values}, indirect=True)
        def test_it(sandbox):
            print(sandbox.run("echo A=$A B=$B").stdout)
            {body}
    """)


def assert_refused(result, sentence):
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{sentence}"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    result.stdout.no_fnmatch_line("* passed*")


def test_an_image_is_what_the_sandbox_is_made_from(pytester, server):
    suite(pytester, f"[{server.image!r}, 'no-such-registry.invalid/image']")

    result = pytester.runpytest_subprocess("-v")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*::test_it[[]{server.image}[]] PASSED*", "*test_it[[]no-such-registry*[]] ERROR*"])


def test_a_mapping_holds_arguments_of_the_marker(pytester):
    suite(pytester, "[{'env': {'A': '1'}}, {'env': {'A': '2'}, 'timeout': 9}, {}]")

    result = pytester.runpytest_subprocess("-v", "-s")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["*test_it[[]env=A=1[]] A=1 B=", "*test_it[[]env=A=2,timeout=9[]] A=2 B=", "*test_it[[]defaults[]] A= B="]
    )


def test_files_and_setup_are_arguments_too(pytester):
    suite(pytester, "[{'put': {'a.txt': '/srv/a.txt'}, 'setup': ['cp /srv/a.txt /srv/b', 'echo c >> /srv/b']}]",
          body="assert sandbox.run('cat /srv/b').stdout == 'hello\\nc\\n'")  # fmt: skip
    (pytester.path / "a.txt").write_text("hello\n")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


def test_the_parameter_wins_over_the_marker_argument_by_argument(pytester):
    suite(
        pytester,
        "[{'env': {'A': 'parameter'}}, {'timeout': 9}]",
        marker="@pytest.mark.sandbox(env={'A': 'marker'})",
    )

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*A=parameter B=", "*A=marker B="])


def test_a_marker_of_one_parameter_is_nearer_than_the_decorator(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(env={"A": "decorator"})
        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.sandbox(env={"A": "param"})), 2])
        def test_it(sandbox, n):
            assert sandbox.run("echo $A").stdout == {1: "param\\n", 2: "decorator\\n"}[n]
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2)


def test_an_id_and_marks_of_ones_own_stay(pytester):
    suite(pytester, "[pytest.param({'env': {'A': '1'}}, id='mine', marks=pytest.mark.xfail(strict=True))]",
          body="assert False")  # fmt: skip

    result = pytester.runpytest_subprocess("-v")

    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*test_it[[]mine[]] XFAIL*"])


def test_hooks_see_what_the_parameter_asks_for(pytester):
    pytester.makeconftest("""
        import dataclasses

        def pytest_opensandbox_opts(opts, nodeid):
            return dataclasses.replace(opts, env={**opts.env, "B": opts.env["A"] + nodeid[-1]})
    """)
    suite(pytester, "[{'env': {'A': '1'}}]")

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*A=1 B=1]"])


@pytest.mark.parametrize("workers", [pytest.param([], id="alone"), pytest.param(["-n2"], id="two workers")])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        pytest.param("3", "must be an image, or a mapping of the marker's arguments (image, *); got 3", id="number"),
        pytest.param("None", "must be an image, or a mapping *; got None", id="none"),
        pytest.param("['host']", "must be an image, or a mapping *; got [[]'host'[]]", id="list"),
        pytest.param("{'imgae': 'a'}", "a key in the parameter of 'sandbox' must be one of image, *", id="typo"),
        pytest.param("{1: 'a'}", "a key in the parameter of 'sandbox' must be one of image, *; got 1", id="no word"),
        pytest.param("{'timeout': 0}", "timeout must be seconds, *; got 0", id="value"),
    ],
)
def test_any_other_value_is_one_usage_error(pytester, value, sentence, workers):
    suite(pytester, f"[{value}]")

    result = pytester.runpytest_subprocess(*workers)

    assert_refused(result, f"test_it[[]*[]]: *{sentence}")


@pytest.mark.parametrize(("mark", "outcome"), [("skip", "skipped"), ("xfail", "xfailed")])
def test_an_empty_parameter_set_gets_the_mark_of_pytest(pytester, mark, outcome):
    suite(pytester, "[]")

    result = pytester.runpytest_subprocess("-o", f"empty_parameter_set_mark={mark}")

    result.assert_outcomes(**{outcome: 1})


@pytest.mark.parametrize("name", ["sandbox_factory", "opensandbox_client", "opensandbox_settings"])
def test_the_other_fixtures_take_no_parameter(pytester, name):
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize("{name}", ["host"], indirect=True)
        def test_it({name}): pass
    """)

    result = pytester.runpytest_subprocess()

    assert_refused(result, f"the parameter of '{name}' must be left out: parametrize 'sandbox', *")


def test_the_factory_of_a_parametrized_test_makes_what_it_is_asked_for(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("sandbox", [{"env": {"A": "1"}}], indirect=True)
        def test_it(sandbox, sandbox_factory):
            assert sandbox_factory().run("echo $A").stdout == "\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


OVERRIDING = """
    import pytest

    @pytest.fixture
    def sandbox(sandbox):
        sandbox.put("mine", "/srv/mine")
        return sandbox
"""


def test_a_fixture_that_extends_ours_passes_the_parameter_on(pytester):
    pytester.makeconftest(OVERRIDING)
    suite(pytester, "[{'env': {'A': '1'}}]", body="assert sandbox.run('cat /srv/mine').stdout == 'mine'")

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*A=1 B="])


def test_a_fixture_that_extends_ours_may_have_the_parameters(pytester):
    pytester.makeconftest(OVERRIDING.replace("fixture\n", "fixture(params=[{'env': {'A': '1'}}, {'env': {}}])\n"))
    pytester.makepyfile("def test_it(sandbox): print(sandbox.run('echo A=$A').stdout)")

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*A=1", "*A="])


def test_a_fixture_that_extends_ours_is_refused_like_ours(pytester):
    pytester.makeconftest(OVERRIDING)
    suite(pytester, "[3]")

    assert_refused(pytester.runpytest_subprocess(), "the parameter of 'sandbox' must be an image, or *; got 3")


def test_a_fixture_in_the_place_of_ours_has_parameters_of_its_own(pytester):
    pytester.makeconftest("""
        import pytest

        @pytest.fixture
        def sandbox(request, sandbox_factory):
            return sandbox_factory(env={"A": str(request.param)})
    """)
    suite(pytester, "[3, {'x': 'y'}]")

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*A=3 B="])


def test_a_direct_value_goes_to_the_test(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("sandbox", [3])
        def test_it(sandbox): assert sandbox == 3
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


def test_a_marker_that_a_hook_adds_late_counts(pytester):
    pytester.makeconftest("""
        import pytest

        def pytest_runtest_setup(item):
            item.add_marker(pytest.mark.sandbox(env={"A": "late"}))
    """)
    pytester.makepyfile("def test_it(sandbox): assert sandbox.run('echo $A').stdout == 'late\\n'")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
