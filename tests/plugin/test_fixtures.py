"""The fixtures from inside a session: what they give, and what they promise of it."""

import pytest

from pytest_opensandbox import Client, NotFoundError, Sandbox, SandboxClosedError


def test_sandbox_is_a_handle_that_works(sandbox):
    assert isinstance(sandbox, Sandbox)
    assert sandbox.run("echo hi").stdout == "hi\n"


@pytest.mark.sandbox(env={"GREETING": "hello"}, timeout=5)
def test_the_marker_says_what_the_sandbox_is_made_of(sandbox):
    assert sandbox.run("echo $GREETING").stdout == "hello\n"


def test_client_is_the_one_that_the_sandbox_lives_on(sandbox, opensandbox_client):
    assert isinstance(opensandbox_client, Client)
    assert opensandbox_client.get_sandbox(sandbox.id).is_running


def test_a_closed_sandbox_is_gone_from_the_server(sandbox_factory, opensandbox_client):
    with sandbox_factory() as sandbox:
        pass

    with pytest.raises(SandboxClosedError):
        sandbox.run("true")
    with pytest.raises(NotFoundError):
        opensandbox_client.get_sandbox(sandbox.id)


def test_the_factory_makes_as_many_as_it_is_asked_for(sandbox_factory):
    sandboxes = [sandbox_factory(env={"N": str(n)}) for n in range(3)]

    assert [sandbox.run("echo $N").stdout for sandbox in sandboxes] == ["0\n", "1\n", "2\n"]


def test_settings_are_those_of_this_run(opensandbox_settings, pytestconfig):
    assert opensandbox_settings.project == pytestconfig.rootpath.name
    assert set(opensandbox_settings.sources.values()) <= {"flag", "environment", "ini", "default"}
