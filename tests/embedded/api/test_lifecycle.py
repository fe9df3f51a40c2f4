"""The lifecycle API beyond what was recorded: states, ends, freezing, time."""

import os
import signal
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
import requests

from pytest_opensandbox import OpenSandboxError
from tests.embedded.machine import is_alive, process_state, wait_until

CREATE = {"image": {"uri": "host"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "1"}}
TICK = "i=0; while :; do i=$((i+1)); echo $i > /tmp/tick; sleep 0.01; done"


def post(machine, **changes):
    return machine.request("POST", "/v1/sandboxes", json={**CREATE, "timeout": 600, **changes})


def status(machine, sandbox_id):
    return machine.request("GET", f"/v1/sandboxes/{sandbox_id}").json()["status"]


def test_a_sandbox_runs_its_entrypoint(machine):
    made = post(machine, entrypoint=["sh", "-c", "echo started; sleep 1000"]).json()

    def log():
        return machine.request("GET", f"/v1/sandboxes/{made['id']}/diagnostics/logs?scope=container").json()["content"]

    assert wait_until(lambda: "started" in log())


@pytest.mark.parametrize(
    ("entrypoint", "state", "reason", "message"),
    [
        pytest.param(["true"], "Terminated", "CONTAINER_EXITED", "exited successfully", id="success"),
        pytest.param(["sh", "-c", "exit 3"], "Failed", "CONTAINER_EXITED_ERROR", "with code 3", id="failure"),
        pytest.param(["sh", "-c", "kill -9 $$"], "Failed", "CONTAINER_EXITED_ERROR", "with code 137", id="a signal"),
        pytest.param(["no-such-program"], "Failed", "CONTAINER_EXITED_ERROR", "with code 127", id="no program"),
    ],
)
def test_a_sandbox_ends_with_its_entrypoint(machine, entrypoint, state, reason, message):
    made = post(machine, entrypoint=entrypoint).json()

    assert wait_until(lambda: status(machine, made["id"])["state"] == state)

    ended = status(machine, made["id"])
    assert ended["reason"] == reason
    assert message in ended["message"]
    assert ended["lastTransitionAt"] > made["createdAt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_process_1_ends_a_sandbox(machine, number):
    sandbox_id = machine.create()

    with suppress(OpenSandboxError):  # the agent, which was to answer, ends as well
        machine.run(sandbox_id, f"kill -{number} 1")

    assert wait_until(lambda: status(machine, sandbox_id)["state"] == "Failed")
    assert f"with code {128 + number}" in status(machine, sandbox_id)["message"]


def test_a_process_that_lost_its_parent_is_collected(machine):
    orphan = "pid=$(sh -c 'sleep 0.01 > /dev/null & echo $!')"

    assert machine.run(machine.create(), f"{orphan}; while [ -d /proc/$pid ]; do sleep 0.01; done").exit_code == 0


def test_an_ended_sandbox_keeps_its_log_until_it_is_deleted(machine):
    made = post(machine, entrypoint=["sh", "-c", "echo last words"]).json()
    assert wait_until(lambda: status(machine, made["id"])["state"] == "Terminated")

    log = machine.request("GET", f"/v1/sandboxes/{made['id']}/diagnostics/logs?scope=all").json()

    assert log["content"].endswith(" last words\n")
    assert machine.request("DELETE", f"/v1/sandboxes/{made['id']}").status_code == 204


def test_delete_returns_when_nothing_runs_any_more(machine):
    others = set(machine.sandbox_pids())
    sandbox_id = machine.create()
    machine.run(sandbox_id, "nohup setsid sleep 1000 > /dev/null 2>&1 &")
    pids = set(machine.sandbox_pids()) - others

    machine.client.delete_sandbox(sandbox_id)

    assert not any(is_alive(pid) for pid in pids)


def test_a_sandbox_that_does_not_end_is_not_forgotten(machine):
    """A client that receives "deleted" never looks for the sandbox again."""
    others = set(machine.sandbox_pids())
    sandbox_id = machine.create()
    bubblewrap = next(pid for pid in machine.sandbox_pids() if pid not in others)
    os.kill(bubblewrap, signal.SIGSTOP)

    refused = machine.request("DELETE", f"/v1/sandboxes/{sandbox_id}")
    listed = [sandbox.id for sandbox in machine.client.list_sandboxes()]
    os.kill(bubblewrap, signal.SIGCONT)
    deleted = machine.request("DELETE", f"/v1/sandboxes/{sandbox_id}")

    assert (refused.status_code, refused.json()["code"]) == (500, "DOCKER::SANDBOX_DELETE_FAILED")
    assert sandbox_id in listed
    assert deleted.status_code == 204
    assert sandbox_id not in [sandbox.id for sandbox in machine.client.list_sandboxes()]


def test_a_paused_sandbox_stands_still_and_goes_on(machine):
    sandbox_id = machine.create()
    machine.run(sandbox_id, f"({TICK}) > /dev/null 2>&1 &")
    others = [pid for pid in machine.sandbox_pids() if is_alive(pid)]

    machine.client.pause(sandbox_id)
    waiting = []
    asking = threading.Thread(target=lambda: waiting.append(machine.run(sandbox_id, "cat /tmp/tick")))
    asking.start()
    asking.join(0.3)
    frozen = [pid for pid in others if process_state(pid) == "T"]
    assert asking.is_alive(), "a request to a paused agent hangs"
    assert status(machine, sandbox_id)["state"] == "Paused"
    machine.client.resume(sandbox_id)
    asking.join(30)

    assert len(frozen) >= 4
    assert waiting[0].exit_code == 0
    assert status(machine, sandbox_id)["state"] == "Running"
    assert not any(process_state(pid) == "T" for pid in frozen if is_alive(pid))


def test_a_sandbox_can_be_paused_while_it_starts(machine):
    made = post(machine).json()

    machine.client.pause(made["id"])
    assert status(machine, made["id"])["state"] == "Paused"
    machine.client.resume(made["id"])

    assert machine.run(made["id"], "echo works").stdout.strip() == "works"


def test_a_process_that_was_stopped_before_a_pause_stays_stopped(machine):
    sandbox_id = machine.create()
    # A session of its own: the kernel wakes stopped processes whose shell ends.
    machine.run(sandbox_id, "setsid sh -c 'echo $$ > /tmp/pid; kill -STOP $$; exec sleep 1000' > /dev/null 2>&1 &")

    def letter():
        return machine.run(sandbox_id, "cut -d' ' -f3 /proc/$(cat /tmp/pid)/stat").stdout.strip()

    assert wait_until(lambda: letter() == "T")

    machine.client.pause(sandbox_id)
    machine.client.resume(sandbox_id)

    assert letter() == "T"


def test_a_paused_sandbox_can_be_deleted(machine):
    sandbox_id = machine.create()
    machine.client.pause(sandbox_id)

    assert machine.request("DELETE", f"/v1/sandboxes/{sandbox_id}").status_code == 204


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("resume", "DOCKER::SANDBOX_NOT_PAUSED", id="resume a running one"),
        pytest.param("pause", "DOCKER::SANDBOX_NOT_RUNNING", id="pause an ended one"),
    ],
)
def test_a_change_that_the_state_forbids_is_a_conflict(machine, path, code):
    made = post(machine, entrypoint=["true"] if path == "pause" else CREATE["entrypoint"]).json()
    if path == "pause":
        assert wait_until(lambda: status(machine, made["id"])["state"] == "Terminated")

    refused = machine.request("POST", f"/v1/sandboxes/{made['id']}/{path}")

    assert (refused.status_code, refused.json()["code"]) == (409, code)


def test_a_sandbox_is_gone_when_its_time_is_up(machine):
    """The lease: a client that stops renewing must not leave anything behind."""
    sandbox_id = machine.create()
    pids = machine.sandbox_pids()
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.3)
    path = f"/v1/sandboxes/{sandbox_id}"

    assert machine.request("POST", f"{path}/renew-expiration", json={"expiresAt": soon.isoformat()}).status_code == 200

    assert wait_until(lambda: machine.request("GET", path).status_code == 404)
    assert wait_until(lambda: not all(is_alive(pid) for pid in pids))


def test_a_renewed_sandbox_outlives_its_first_time(machine):
    sandbox_id = machine.create()
    path = f"/v1/sandboxes/{sandbox_id}/renew-expiration"
    for seconds in (0.5, 60):
        expires_at = (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()
        assert machine.request("POST", path, json={"expiresAt": expires_at}).status_code == 200

    time.sleep(0.8)

    assert status(machine, sandbox_id)["state"] == "Running"


def test_a_sandbox_without_a_timeout_has_no_end_to_renew(machine):
    made = post(machine, timeout=None).json()

    later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    refused = machine.request("POST", f"/v1/sandboxes/{made['id']}/renew-expiration", json={"expiresAt": later})

    assert "expiresAt" not in made
    assert (refused.status_code, refused.json()["code"]) == (409, "DOCKER::INVALID_EXPIRATION")


def test_metadata_is_merged_and_null_removes(machine):
    made = post(machine, metadata={"kept": "1", "dropped": "1"}).json()
    path = f"/v1/sandboxes/{made['id']}/metadata"

    patched = machine.request("PATCH", path, json={"dropped": None, "added": "2", "kept": "3"})

    assert patched.json()["metadata"] == {"kept": "3", "added": "2"}
    assert machine.request("PATCH", path, json={}).json()["metadata"] == {"kept": "3", "added": "2"}


def test_null_in_env_drops_the_variable(machine):
    made = post(machine, env={"A": None, "B": "b"}).json()

    assert machine.run(made["id"], "echo ${A-unset} $B").stdout.strip() == "unset b"


def test_listings_are_newest_first_and_filter_by_state(machine):
    ids = [post(machine, metadata={"group": "order"}).json()["id"] for _ in range(3)]
    machine.client.pause(ids[1])

    listed = machine.request("GET", "/v1/sandboxes?metadata=group%3Dorder").json()["items"]
    paused = machine.request("GET", "/v1/sandboxes?metadata=group%3Dorder&state=paused&state=Failed").json()["items"]

    assert [item["id"] for item in listed] == ids[::-1]
    assert [item["id"] for item in paused] == [ids[1]]


def test_twenty_sandboxes_at_once_are_twenty(machine):
    """Workers of xdist create in a burst."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(machine.create())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(answers)) == 20
    assert {machine.run(one, "echo $OPENSANDBOX_ID").stdout.strip() for one in answers} == set(answers)


def test_nothing_of_a_deleted_sandbox_stays_in_the_server(machine):
    """A session creates thousands of sandboxes on one server."""

    def held():
        pid = machine.process.pid
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))

    for sandbox_id in [machine.create() for _ in range(3)]:
        machine.client.delete_sandbox(sandbox_id)
    before = held()

    for _ in range(10):
        sandbox_id = machine.create()
        machine.run(sandbox_id, "true")
        machine.client.delete_sandbox(sandbox_id)

    assert wait_until(lambda: held()[0] <= before[0] + 2 and held()[1] <= before[1] + 1), (before, held())


def test_events_and_summary_tell_how_it_ended(machine):
    made = post(
        machine, entrypoint=["sh", "-c", "echo words; exit 3"], env={"API_TOKEN": "hidden", "B": "shown"}
    ).json()
    assert wait_until(lambda: status(machine, made["id"])["state"] == "Failed")
    path = f"/v1/sandboxes/{made['id']}/diagnostics"

    events = machine.request("GET", f"{path}/events?scope=runtime").json()
    summary = machine.request("GET", f"{path}/summary")

    assert "exit code 3" in events["content"]
    assert "words" in summary.text
    assert "B=shown" in summary.text
    assert "hidden" not in summary.text


def test_plain_logs_are_marked_as_deprecated(machine):
    made = post(machine, entrypoint=["sh", "-c", "seq 5"]).json()
    assert wait_until(lambda: status(machine, made["id"])["state"] == "Terminated")

    log = machine.request("GET", f"/v1/sandboxes/{made['id']}/diagnostics/logs?tail=2&since=1h")

    assert [line.split()[-1] for line in log.text.splitlines()] == ["4", "5"]
    assert log.headers["Deprecation"] == "true"
    assert log.headers["Content-Type"].startswith("text/plain")


def test_the_log_of_a_chatty_sandbox_is_bounded(machine):
    made = post(machine, entrypoint=["sh", "-c", "yes 0123456789 | head -c 3000000"]).json()
    assert wait_until(lambda: status(machine, made["id"])["state"] == "Terminated")

    log = machine.request("GET", f"/v1/sandboxes/{made['id']}/diagnostics/logs?tail=10000").text

    assert 0 < len(log) < 1_000_000


def test_an_unknown_scope_is_refused(machine):
    made = post(machine).json()

    refused = machine.request("GET", f"/v1/sandboxes/{made['id']}/diagnostics/logs?scope=moon")

    assert (refused.status_code, refused.json()["code"]) == (400, "DIAGNOSTICS_SCOPE_UNSUPPORTED")


def test_every_route_works_without_the_version(machine):
    made = machine.request("POST", "/sandboxes", json=CREATE).json()

    assert machine.request("GET", f"/sandboxes/{made['id']}").json()["id"] == made["id"]
    assert machine.request("DELETE", f"/sandboxes/{made['id']}").status_code == 204


def test_a_deleted_sandbox_s_port_is_closed(machine):
    sandbox_id = machine.create()
    endpoint = machine.client.discover_execd(sandbox_id)
    machine.client.delete_sandbox(sandbox_id)

    with pytest.raises(requests.ConnectionError):
        requests.get(f"{endpoint.url}/ping", timeout=5)
