"""The ``sandbox`` fixture: a fresh sandbox for each test, deleted afterwards."""


def test_the_example_of_the_readme_passes(pytester):
    pytester.makepyfile("""
        def test_x(sandbox):
            assert sandbox.run("echo hi").stdout == "hi\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


def test_each_test_has_a_sandbox_of_its_own(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_fresh(sandbox, n):
            assert sandbox.run("cat /tmp/mark").exit_code == 1
            sandbox.run("echo mine > /tmp/mark", check=True)
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["opensandbox: 3 created, 3 deleted, 0 swept, 0 left"])


def test_a_sandbox_is_gone_after_its_test_whether_it_passes_or_fails(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def ids(opensandbox_client, opensandbox_settings):
            tags = {"pytest-opensandbox.project": opensandbox_settings.project}
            return lambda: [sandbox.id for sandbox in opensandbox_client.list_sandboxes(tags)]

        def test_failing(sandbox, ids):
            assert ids() == [sandbox.id]
            raise RuntimeError

        def test_afterwards(ids):
            assert ids() == []
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, failed=1)
    assert server.sandboxes() == []


def test_a_sandbox_carries_the_tags_of_its_run(pytester, server):
    pytester.makepyfile("""
        def test_tags(sandbox, opensandbox_client):
            for key, value in sorted(opensandbox_client.get_sandbox(sandbox.id).metadata.items()):
                print(f"{key}={value}")
    """)

    result = pytester.runpytest_subprocess("-s")

    run_id = next(line for line in result.outlines if line.startswith("opensandbox:")).rpartition("run=")[2]
    result.stdout.fnmatch_lines_random(
        [
            f"pytest-opensandbox.run={run_id}",
            "pytest-opensandbox.worker=main",
            "pytest-opensandbox.project=test_a_sandbox_carries_the_tags_of_its_run0",
            "pytest-opensandbox.test=*test_tags*",
        ]
    )


def test_the_nearest_marker_wins_argument_by_argument(pytester, server):
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.sandbox(env={"FROM": "module"}, timeout=50)

        def test_module(sandbox):
            assert sandbox.run("echo $FROM").stdout == "module\\n"

        @pytest.mark.sandbox(env={"FROM": "class"})
        class TestClass:
            def test_class(self, sandbox):
                assert sandbox.run("echo $FROM").stdout == "class\\n"

            @pytest.mark.sandbox(env={"FROM": "function"}, resources={"memory": "128Mi"})
            def test_function(self, sandbox):
                assert sandbox.run("echo $FROM").stdout == "function\\n"
    """)

    result = pytester.runpytest_subprocess("--strict-markers")

    result.assert_outcomes(passed=3)


def test_the_markers_timeout_beats_the_flag_for_commands_that_name_none(pytester, server):
    pytester.makepyfile("""
        import pytest
        from pytest_opensandbox import CommandTimeoutError

        @pytest.mark.sandbox(timeout=0.3)
        def test_short(sandbox):
            with pytest.raises(CommandTimeoutError, match="0.3 s"):
                sandbox.run("echo begun; sleep 60")
    """)

    result = pytester.runpytest_subprocess("--opensandbox-command-timeout=50")

    result.assert_outcomes(passed=1)


def test_what_the_server_refuses_is_one_message_and_no_traceback(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(image="no-such-registry.invalid/image")
        def test_refused(sandbox):
            pass

        def test_unharmed(sandbox):
            pass
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["opensandbox: *([45]00 *, POST *)*"])
    result.stdout.no_fnmatch_line("*.py:*: *Error*")
    result.stdout.no_fnmatch_line("*During handling*")


def test_unittest_classes_can_use_it_through_a_fixture(pytester, server):
    pytester.makepyfile("""
        import unittest
        import pytest

        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _take(self, sandbox):
                self.sandbox = sandbox

            def test_it(self):
                self.assertEqual(self.sandbox.run("echo hi").stdout, "hi\\n")
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


def test_the_fixtures_explain_themselves(pytester):
    result = pytester.runpytest_subprocess("--fixtures")

    result.stdout.fnmatch_lines(
        [
            "sandbox -- *",
            "    A fresh, isolated sandbox for this test: ready when the test starts, deleted after it.",
            "sandbox_factory [[]session scope[]] -- *",
            "    A callable that creates further sandboxes*",
            "opensandbox_client [[]session scope[]] -- *",
            "    The ``Client`` for this run's server*",
            "opensandbox_settings [[]session scope[]] -- *",
            "    The frozen ``Settings`` of this run*",
        ]
    )
