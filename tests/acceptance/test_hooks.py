"""The hooks that a conftest.py may implement."""

import pytest

# The backend does not matter here, and a running server saves each test the start of one.
pytestmark = pytest.mark.usefixtures("server")


def test_opts_changes_what_is_asked_for(pytester):
    pytester.makeconftest("""
        import dataclasses

        def pytest_opensandbox_opts(opts, nodeid):
            return dataclasses.replace(opts, env={**opts.env, "TEST": nodeid.rpartition("::")[2]})
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(env={"A": "1"})
        def test_it(sandbox):
            assert sandbox.run("echo $A $TEST").stdout == "1 test_it\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


def test_an_opts_hook_that_returns_another_type_is_an_error(pytester):
    pytester.makeconftest("def pytest_opensandbox_opts(opts): return {'image': 'host'}")
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: what pytest_opensandbox_opts returns must be SandboxOpts or None; *"])


def test_created_and_closed_see_the_handle(pytester):
    pytester.makeconftest("""
        def pytest_opensandbox_created(sandbox, nodeid):
            sandbox.put(b"prepared", "/tmp/mark")
            print(f"created for {nodeid}")

        def pytest_opensandbox_closed(sandbox):
            print(f"closed {sandbox.closed} after {len(sandbox.history)} commands")
    """)
    pytester.makepyfile("""
        def test_it(sandbox):
            assert sandbox.run("cat /tmp/mark").stdout == "prepared"
    """)

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*created for *.py::test_it", "*closed True after 2 commands"])


def test_a_hook_of_a_directory_speaks_for_the_tests_in_it_only(pytester):
    for name in ("one", "two"):
        folder = pytester.mkpydir(name)
        (folder / "test_it.py").write_text("def test_it(sandbox): print('in', __name__)\n")
    (pytester.path / "one" / "conftest.py").write_text(
        "def pytest_opensandbox_created(nodeid): print('hook', nodeid)\n"
    )

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=2)
    assert [line for line in result.outlines if "hook" in line] != []
    assert "hook two" not in result.stdout.str()


def test_a_failing_closed_hook_is_a_test_error_and_leaves_nothing(pytester, server):
    pytester.makeconftest("def pytest_opensandbox_closed(sandbox): raise RuntimeError('hook')")
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def several(sandbox_factory): return [sandbox_factory() for _ in range(3)]

        def test_it(several): pass
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: hook", "opensandbox: 3 created, 3 deleted, 0 swept, 0 left"])
    assert server.sandboxes() == []


def test_the_hook_for_a_sandbox_that_a_test_closes_belongs_to_that_test(pytester, server):
    pytester.makeconftest("def pytest_opensandbox_closed(sandbox): raise RuntimeError('hook')")
    pytester.makepyfile("""
        def test_it(sandbox_factory):
            with sandbox_factory() as sandbox:
                assert sandbox.run("true").ok
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: hook", "opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])
    assert server.sandboxes() == []


def test_a_hook_that_fails_leaves_no_sandbox_behind(pytester, server):
    pytester.makeconftest("def pytest_opensandbox_created(sandbox): raise RuntimeError('not prepared')")
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *RuntimeError: not prepared", "opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])
    assert server.sandboxes() == []
