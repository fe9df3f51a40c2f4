"""The end of a sandbox of ``sandbox_factory``: with its block, its test, its fixture, or the session."""

import pytest

# The backend does not matter here, and a running server saves each test the start of one.
pytestmark = pytest.mark.usefixtures("server")


def test_one_that_a_test_makes_ends_with_that_test(pytester):
    pytester.makepyfile("""
        made = []

        def test_makes(sandbox_factory):
            made.append(sandbox_factory(env={"A": "1"}))
            assert made[0].run("echo $A").stdout == "1\\n"

        def test_afterwards():
            assert made[0].closed
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


def test_one_that_a_fixture_makes_lives_on_for_other_tests(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def shared(sandbox_factory):
            return sandbox_factory()

        def test_first(shared):
            shared.run("echo first > /tmp/mark", check=True)

        def test_second(shared):
            assert shared.get("/tmp/mark") == b"first\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


def test_one_of_a_fixture_that_a_test_asks_for_in_its_body_is_the_fixtures(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def shared(sandbox_factory):
            return sandbox_factory()

        @pytest.mark.parametrize("n", range(2))
        def test_it(request, n):
            assert request.getfixturevalue("shared").run("true").ok
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2)


def test_each_is_a_context_manager(pytester):
    pytester.makepyfile("""
        import pytest
        from pytest_opensandbox import SandboxClosedError

        def test_it(sandbox_factory):
            with sandbox_factory() as one, sandbox_factory() as other:
                assert one.id != other.id
            with pytest.raises(SandboxClosedError, match="make longer-lived ones in a fixture"):
                one.run("true")
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: 2 created, 2 deleted, 0 swept, 0 left"])


def test_a_failed_create_is_an_error_that_the_test_can_catch(pytester):
    pytester.makepyfile("""
        import pytest
        from pytest_opensandbox import ApiError, ConfigError

        def test_it(sandbox_factory):
            with pytest.raises(ConfigError, match="timeout must be seconds"):
                sandbox_factory(timeout=-1)
            with pytest.raises(ApiError) as caught:
                sandbox_factory(image="no-such-registry.invalid/image")
            assert caught.value.status in (400, 500)
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


def test_the_marker_is_for_the_fixture_not_for_the_factory(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(env={"A": "marker"})
        def test_it(sandbox, sandbox_factory):
            assert sandbox.run("echo $A").stdout == "marker\\n"
            assert sandbox_factory().run("echo $A").stdout == "\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
