"""The sweep at the end of a run: it deletes what handles could not delete, and names what stays."""

import pytest


def test_the_sweep_deletes_what_a_handle_cannot_delete(pytester, server):
    pytester.makeconftest("""
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import TransportError

        delete = Client.delete_sandbox
        calls = []

        def fail_once(self, sandbox_id):
            calls.append(sandbox_id)
            if len(calls) == 1:
                raise TransportError("cut", method="DELETE", url="http://test")
            return delete(self, sandbox_id)

        Client.delete_sandbox = fail_once
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 0 deleted, 1 swept, 0 left"])
    assert server.sandboxes() == []


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        pytest.param((), True, id="one process"),
        pytest.param(("-n1",), True, id="a worker"),
        pytest.param(("-W", "error"), False, id="warnings are errors"),
        pytest.param(("-p", "no:warnings"), False, id="warnings are not collected"),
    ],
)
def test_a_sandbox_that_cannot_be_deleted_is_named_without_failing(pytester, server, arguments, warned):
    pytester.makeconftest("""
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import AuthError

        def fail(self, sandbox_id):
            raise AuthError(403, message="not yours")

        Client.delete_sandbox = fail
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess(*arguments)

    left = server.sandboxes()
    with server.client() as client:
        for sandbox_id in left:
            client.delete_sandbox(sandbox_id)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "opensandbox: 1 created, 0 deleted, 0 swept, 1 left",
            f"still running until ??:??:??, when their lease ends: {left[0]}",
            f"to delete them now: python -m pytest_opensandbox sweep --run ???????????? --opensandbox-url={server.url}",
            "the sweep stopped early: *not yours*",
        ]
    )
    assert result.ret == pytest.ExitCode.OK
    assert result.stdout.str().count("LeakWarning: sandboxes may run until ") == warned
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_the_sweep_leaves_other_runs_alone(pytester, server):
    pytester.makepyfile("""
        from pytest_opensandbox import SandboxOpts

        def test_it(sandbox, opensandbox_client, opensandbox_settings):
            tags = {"pytest-opensandbox.run": "another", "pytest-opensandbox.project": opensandbox_settings.project}
            opensandbox_client.create_sandbox(SandboxOpts(image=sandbox.image, metadata=tags))
    """)

    pytester.runpytest_subprocess()

    with server.client() as client:
        tags = {"pytest-opensandbox.run": "another", "pytest-opensandbox.project": server.project}
        left = client.list_sandboxes(tags)
        for sandbox in left:
            client.delete_sandbox(sandbox.id)
    assert len(left) == 1
