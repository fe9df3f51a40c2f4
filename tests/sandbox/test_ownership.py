"""Whose agent it is: which addresses leave that open, and what a script does that was given to the wrong one."""

import subprocess

import pytest

from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.errors import SharedAgentError
from pytest_opensandbox.sandbox.ownership import check_owner, guarded, may_be_shared
from pytest_opensandbox.transport.endpoints import Endpoint


@pytest.mark.parametrize(
    ("url", "headers", "shared"),
    [
        pytest.param("http://192.0.2.1:44772", {}, True, id="host network"),
        pytest.param("http://h/v1/sandboxes/s1/proxy/44772", {}, True, id="server proxy"),
        pytest.param("http://192.0.2.1:40001/proxy/44772", {}, False, id="bridge network"),
        pytest.param("http://127.0.0.1:35001", {}, False, id="embedded"),
        pytest.param("http://gateway:44772", {"OpenSandbox-Ingress-To": "s1-44772"}, False, id="gateway"),
        pytest.param("http://s1-44772.example", {}, False, id="wildcard gateway"),
    ],
)
def test_an_address_of_its_own_is_told_from_one_that_may_be_shared(url, headers, shared):
    assert may_be_shared(Endpoint(url, headers)) is shared


def run_in_agent_of(variable, script, *, shell="bash"):
    env = {"PATH": "/usr/bin:/bin"} | ({} if variable is None else {"OPENSANDBOX_ID": variable})
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, check=False)
    return CommandResult(command=script, exit_code=done.returncode, stdout_bytes=done.stdout, sandbox_id="s1")


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("variable", ["s1", "", None], ids=["its own", "empty", "not set"])
def test_a_script_runs_in_its_own_sandbox_and_where_nothing_can_be_told(variable, shell):
    result = run_in_agent_of(variable, guarded("echo hi; exit 3", "s1"), shell=shell)

    check_owner(result)
    assert (result.exit_code, result.stdout) == (3, "hi\n")


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_script_does_nothing_in_another_sandbox(shell):
    result = run_in_agent_of("s2", guarded("echo hi", "s1"), shell=shell)

    with pytest.raises(SharedAgentError, match="sandbox s1 is answered by the agent of sandbox s2") as caught:
        check_owner(result)
    assert (caught.value.sandbox_id, caught.value.other_id) == ("s1", "s2")


def test_an_endpoint_that_was_made_by_hand_has_no_sandbox_to_compare_with():
    assert guarded("echo hi", "") == "echo hi"
