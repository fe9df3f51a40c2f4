"""Each request that was recorded from the real agent, sent to ours and compared answer by answer, less sentences."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.embedded.agent_process import Agent, eventually, running_agent
from tests.wire.recorded import Exchange, Ids, Response, load, meaning

TOPICS = ("command", "files", "session", "execd", "errors")
RECORDED_FOLDER = "/tmp/wire"
SENTENCES = frozenset({"message", "evalue", "traceback"})
ENDING = re.compile(r"-?\d+|exit status \d+|signal: .*")

DIFFERENT = {
    "metrics": "figures of another machine",
}
"""Recorded exchanges whose answers cannot be the same, and why."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Response, Response]]]:
    """The recorded answer and ours for every exchange, by topic and name, all sent in the recorded order."""
    folder = tmp_path_factory.mktemp("wire")
    # The recordings were made in a container whose environment had this variable.
    with running_agent(environment={"GREETING": "hello"}) as agent:
        yield {
            f"{topic}: {exchange.name}": pair
            for topic in TOPICS
            for exchange, pair in replay(agent, of_the_agent(topic), folder)
        }


def of_the_agent(topic: str) -> list[Exchange]:
    """Return the exchanges of a topic that went to the agent."""
    return [exchange for exchange in load(topic) if exchange.request.path.startswith("/proxy/44772/")]


def replay(
    agent: Agent, exchanges: list[Exchange], folder: Path
) -> Iterator[tuple[Exchange, tuple[Response, Response]]]:
    """Send the requests of one topic; ids and the folder of the recording are replaced by those of now."""
    ids = Ids()
    for exchange in exchanges:
        request = exchange.request
        data = None if request.data is None else moved(ids.rewrite(request.data.decode()), folder).encode()
        path = moved(ids.rewrite(request.path), folder)
        send = functools.partial(agent.request, request.method, path, data=data, headers=request.headers, stream=True)
        response = read(send())
        if b'"running":false' in exchange.response.body:
            # The real agent kept the answer before this one open for a second; meanwhile the command ended.
            response = eventually(lambda send=send: has_ended(read(send())))
        ids.learn(exchange.response.body, response.body)
        here = dataclasses.replace(response, body=moved_back(response.body, folder))
        yield exchange, (exchange.response, here)


def has_ended(status: Response) -> Response | None:
    """Return a status that says that its command has ended."""
    return status if b'"running":false' in status.body else None


def read(answer: requests.Response) -> Response:
    """Take an answer off the wire; the length that is claimed for a directory is a lie, so nothing waits for it."""
    with answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        body = b"" if headers.get("content-length") == str(2**63 - 1) else answer.content
        return Response(answer.status_code, headers, body)


def moved(text: str, folder: Path) -> str:
    """Put the recording's folder where this test may write."""
    return text.replace(RECORDED_FOLDER, str(folder / "wire"))


def moved_back(body: bytes, folder: Path) -> bytes:
    """Undo it in an answer."""
    return body.replace(str(folder / "wire").encode(), RECORDED_FOLDER.encode())


def without_texts(value: Any) -> Any:
    """Blank the sentences of errors: they are for people, and ours differ. How a process ended is no sentence."""
    if isinstance(value, list):
        return [without_texts(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: blanked(item) if key in SENTENCES else without_texts(item) for key, item in value.items()}


def blanked(text: Any) -> Any:
    """Blank a sentence, or the sentences of a list."""
    if isinstance(text, list):
        return [blanked(item) for item in text]
    return text if not isinstance(text, str) or ENDING.fullmatch(text) else "<sentence>"


def names() -> list[Any]:
    """Return a parameter for each exchange."""
    found = [f"{topic}: {exchange.name}" for topic in TOPICS for exchange in of_the_agent(topic)]
    return [pytest.param(name, id=name) for name in found]


@pytest.mark.parametrize("name", names())
def test_the_agent_answers_as_recorded(name: str, answers: dict[str, tuple[Response, Response]]) -> None:
    recorded, ours = answers[name]

    expected, found = without_texts(meaning(recorded)), without_texts(meaning(ours))

    if name.split(": ", 1)[1] in DIFFERENT:
        assert found["status"] == expected["status"]
    else:
        assert found == expected


def test_the_list_of_differences_names_exchanges_that_exist() -> None:
    known = {exchange.name for topic in TOPICS for exchange in of_the_agent(topic)}

    assert set(DIFFERENT) <= known
