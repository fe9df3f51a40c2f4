"""Where a run had its sandboxes: the command that finds them again, and what a sweep makes of it."""

import shlex

import pytest

from pytest_opensandbox.plugin.run_records import Place
from pytest_opensandbox.settings.settings import read_settings


def settings(url, *, source="flags", **environ):
    named = {"flags": {"url": url}} if source == "flags" else {"flags": {}, "inis": {"url": url}}
    return read_settings(**{"inis": {}, **named}, environ=environ)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        pytest.param(Place(url="http://127.0.0.1:1/a b"), ["--opensandbox-url=http://127.0.0.1:1/a b"], id="url"),
        pytest.param(
            Place(url="https://example.org", ca_bundle="/my $CA.pem"),
            ["--opensandbox-url=https://example.org", "--opensandbox-ca-bundle=/my $CA.pem"],
            id="certificates",
        ),
        pytest.param(
            Place(url="https://example.org", docker_host="tcp://x"),
            ["--opensandbox-url=https://example.org"],
            id="no engine",
        ),
    ],
)
def test_the_command_names_all_that_it_takes_and_is_one_for_a_shell(place, words):
    command = place.sweep_command("r1")

    assert shlex.split(command) == ["python", "-m", "pytest_opensandbox", "sweep", "--run", "r1", *words]


def test_the_command_for_an_engine_names_it_where_a_variable_did():
    command = Place(url="docker", docker_host="unix:///my dir/docker.sock").sweep_command("r1")

    engine, *words = shlex.split(command)
    assert engine == "DOCKER_HOST=unix:///my dir/docker.sock"
    assert words[-1] == "--opensandbox-url=docker"


def test_the_key_is_in_no_command():
    place = Place.of(settings("http://example.org", OPEN_SANDBOX_API_KEY="hunter2"))

    assert "hunter2" not in place.sweep_command("r1") + repr(place)


def test_a_place_gives_a_sweep_its_server_and_its_engine():
    place = Place(url="docker", docker_host="tcp://engine:1", ca_bundle="/ca.pem")

    found = place.applied_to(settings("http://example.org", source="inis"))

    assert (found.url, found.docker_host, found.ca_bundle) == ("docker", "tcp://engine:1", "/ca.pem")


def test_a_flag_of_the_sweep_stays():
    named = settings("http://other")

    assert Place(url="http://example.org").applied_to(named) == named
