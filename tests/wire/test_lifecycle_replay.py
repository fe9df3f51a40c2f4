"""The requests that a real server answered, sent to the embedded one: each answer must mean the same."""

import json
import re
from datetime import datetime, timedelta, timezone

import pytest
import requests

from pytest_opensandbox.servers.server_process import start_embedded
from tests.embedded.machine import wait_until
from tests.wire.recorded import Exchange, Ids, Response, load, meaning

RECORDED_IMAGE = "debian:bookworm-slim"
SANDBOX_MADE_BEFORE = {"list page 1 of 2": ("b", "c")}
NEEDS_A_RUNNING_SANDBOX = {
    "errors": "df78237d-d141-4f47-937c-637575f6da87",
    "snapshots": "b3cb5173-2cf0-4cc0-9724-6f969ec14f63",
}
WAITS = {"list: entrypoint exited 1": b'"Running"', "snapshot get": b'"Creating"'}

DIFFERENCES = {
    "list by state": "the recording server had two more sandboxes",
    "create: image that cannot be pulled": "nothing is pulled here: 400, and the message says what to use",
    "create: networkPolicy without an egress image": "the same refusal, but its message says what to use here",
}
TOPICS = ("lifecycle", "errors", "snapshots")
RECORDED = [exchange for topic in TOPICS for exchange in load(topic)]
# A client that waits asks the same again and again.
EXCHANGES = list({exchange.name: exchange for exchange in RECORDED}.values())
FIRST = {topic: load(topic)[0].name for topic in NEEDS_A_RUNNING_SANDBOX}


@pytest.fixture(scope="module")
def replayed():
    """Every exchange's answer of the embedded server, by name."""
    with start_embedded() as server, requests.Session() as session:
        session.trust_env = False
        return Replay(server, session).answers()


class Replay:
    """Sends the recorded requests in their order, with this run's ids in place of the recorded ones."""

    def __init__(self, server, session):
        self._server = server
        self._session = session
        self._ids = Ids()

    def answers(self):
        answers = {}
        for exchange in EXCHANGES:
            for case in SANDBOX_MADE_BEFORE.get(exchange.name, ()):
                self._make({"suite": "wire", "case": case})
            if exchange.name == FIRST.get(exchange.topic):
                self._stand_in(NEEDS_A_RUNNING_SANDBOX[exchange.topic])
            if (transient := WAITS.get(exchange.name)) is not None:
                self._wait_while(transient, exchange)
            answers[exchange.name] = self._send(exchange)
            self._ids.learn(exchange.response.body, answers[exchange.name].body)
        return answers

    def _send(self, exchange):
        headers = dict(exchange.request.headers)
        if headers.get("OPEN-SANDBOX-API-KEY") and "wrong" not in exchange.name:
            headers["OPEN-SANDBOX-API-KEY"] = self._server.api_key
        answer = self._session.request(
            exchange.request.method,
            self._server.url + self._ids.rewrite(exchange.request.path),
            headers=headers,
            data=_body_for_now(exchange, self._ids),
        )
        lowered = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, lowered, answer.content)

    def _make(self, metadata):
        create = {"image": {"uri": "host"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "1"}}
        answer = self._session.post(
            f"{self._server.url}/v1/sandboxes",
            json={**create, "timeout": 600, "metadata": metadata},
            headers={"OPEN-SANDBOX-API-KEY": self._server.api_key},
        )
        return answer.json()["id"]

    def _stand_in(self, recorded_id):
        """Make a sandbox for the one that was still there when the errors were recorded."""
        fresh = Ids()
        fresh.learn(recorded_id.encode(), self._make({}).encode())
        self._ids = fresh

    def _wait_while(self, transient, exchange):
        """Poll until a state is over, as the recording client did."""
        assert wait_until(lambda: transient not in self._send(exchange).body)


def _body_for_now(exchange, ids):
    """Return the body with the image and the ids that exist here, and with dates that are still to come."""
    if exchange.request.data is None:
        return None
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
    text = ids.rewrite(exchange.request.data.decode()).replace(RECORDED_IMAGE, "host")
    return re.sub(r"2026-\d\d-\d\dT[\d:]+Z", later, text).encode()


def _comparable(exchange, answer):
    """Return the meaning of an answer, with the differences by design made equal."""
    said = meaning(answer)
    text = json.dumps(said["body"]).replace(RECORDED_IMAGE, "host")
    body = json.loads(re.sub(r"127\.0\.0\.1:\d+", "<address>", text))
    if isinstance(body, dict) and "endpoint" in body and body.pop("headers", None):
        # The secret, in a header and as the first segment: the recorded agent, on a machine of its own, had none.
        body["endpoint"] = body["endpoint"].replace("<address>/<id>/", "<address>/", 1)
    return {**said, "body": body}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_the_answer_means_what_the_recorded_one_means(replayed, exchange: Exchange):
    answer = replayed[exchange.name]
    if reason := DIFFERENCES.get(exchange.name):
        assert _comparable(exchange, answer) != _comparable(exchange, exchange.response), f"no longer differs: {reason}"
        return

    assert _comparable(exchange, answer) == _comparable(exchange, exchange.response)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_every_answer_carries_a_request_id(replayed, exchange: Exchange):
    assert re.fullmatch(r"[0-9a-f]{32}", replayed[exchange.name].headers["x-request-id"])


def test_a_refused_image_says_what_to_use(replayed):
    refused = replayed["create: image that cannot be pulled"]

    assert refused.status == 400
    assert "--opensandbox-image host" in json.loads(refused.body)["message"]
    assert "--opensandbox-url docker" in json.loads(refused.body)["message"]


def test_refused_network_rules_keep_the_code_and_say_what_to_use(replayed):
    refused = replayed["create: networkPolicy without an egress image"]

    assert refused.status == 400
    assert json.loads(refused.body)["code"] == "SANDBOX::INVALID_PARAMETER"
    assert "--opensandbox-url docker" in json.loads(refused.body)["message"]


def test_a_listing_by_state_holds_the_running_sandbox(replayed):
    listed = json.loads(replayed["list by state"].body)

    assert [item["status"]["state"] for item in listed["items"]] == ["Running"]
