"""Requests: the marker's arguments, the nearest of several markers, and what is refused."""

from pathlib import Path

import pytest

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import EgressRule, NetworkPolicy
from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.provisioning.sandbox_request import MARKER_ARGUMENTS, MARKER_HELP, SandboxRequest, read_markers
from pytest_opensandbox.settings.settings import read_settings

SETTINGS = read_settings(
    flags={"image": "base:1", "resources": "cpu=1", "lease": "90", "command_timeout": "7"}, environ={}, inis={}
)


def resolve(asked):
    return asked.resolve(SETTINGS, root=Path("/root"))


def marker(*positional, **named):
    return positional, named


def test_an_empty_request_is_what_the_options_say():
    opts = SandboxRequest().opts(SETTINGS)

    assert (opts.image, opts.resource_limits, opts.timeout) == ("base:1", {"cpu": "1"}, 90)
    assert (opts.env, opts.network_policy, opts.snapshot_id) == ({}, None, None)
    assert resolve(SandboxRequest()).command_timeout == 7


def test_a_request_beats_the_options():
    asked = SandboxRequest(image="other:2", env={"A": "1"}, resources={"memory": "1Gi"}, timeout=3, network="none")

    opts = asked.opts(SETTINGS)

    assert (opts.image, opts.env, opts.resource_limits) == ("other:2", {"A": "1"}, {"memory": "1Gi"})
    assert opts.network_policy == NetworkPolicy()
    assert resolve(asked).command_timeout == 3


def test_empty_resources_of_a_request_are_no_limits():
    assert SandboxRequest(resources={}).opts(SETTINGS).resource_limits == {}


def test_a_snapshot_takes_the_place_of_the_image():
    opts = SandboxRequest(snapshot="snap-1").opts(SETTINGS)

    assert (opts.image, opts.snapshot_id) == (None, "snap-1")


def test_a_snapshot_may_be_given_as_itself():
    snapshot = Snapshot("snap-1", "s1", "Ready")

    assert SandboxRequest(snapshot=snapshot).opts(SETTINGS).snapshot_id == "snap-1"


PREPARED = read_settings(flags={"setup": "make", "put": "words=/in/words", "setup_timeout": "9"}, environ={}, inis={})


@pytest.mark.parametrize(
    ("asked", "commands", "targets"),
    [
        pytest.param(SandboxRequest(), ("make",), ["/in/words"], id="the options"),
        pytest.param(SandboxRequest(setup="other"), ("other",), ["/in/words"], id="another setup"),
        pytest.param(SandboxRequest(setup=""), (), ["/in/words"], id="no setup"),
        pytest.param(SandboxRequest(put={}), ("make",), [], id="no files"),
        pytest.param(SandboxRequest(put={"a": "/a", "b": "/b"}), ("make",), ["/a", "/b"], id="other files"),
        pytest.param(SandboxRequest(snapshot="p1"), (), [], id="a snapshot, which the options do not mean"),
        pytest.param(SandboxRequest(snapshot="p1", setup=["a", "b"]), ("a", "b"), [], id="a setup on a snapshot"),
        pytest.param(SandboxRequest(pool="fast"), ("make",), ["/in/words"], id="a pool"),
    ],
)
def test_a_setup_is_the_one_of_the_request_or_else_the_options(asked, commands, targets):
    setup = asked.sandbox_setup(PREPARED, root=Path("/root"))

    assert setup.commands == commands
    assert [target for _, target in setup.files] == targets
    assert setup.timeout == 9


def test_files_lie_below_the_rootdir_unless_their_paths_are_absolute():
    asked = SandboxRequest(put={"sub/a": "/a", "/b": "/b"})

    files = asked.sandbox_setup(PREPARED, root=Path("/root")).files

    assert files == ((Path("/root/sub/a"), "/a"), (Path("/b"), "/b"))


def test_a_snapshot_and_an_image_contradict_each_other():
    with pytest.raises(ConfigError, match=r"^snapshot must .*not both"):
        SandboxRequest(snapshot="snap-1", image="a").opts(SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            {"resources": {"mem": "1"}}, r"^resources\['mem'\] must have a name out of cpu, memory, ", id="name"
        ),
        pytest.param({"resources": {"memory": "1.5"}}, r"^resources\['memory'\] must be whole bytes ", id="memory"),
        pytest.param({"resources": {"cpu": 1}}, r"^resources\['cpu'\] must be text, such as '1'; got 1$", id="number"),
        pytest.param({"snapshot": ""}, "^snapshot must be a reference without white space", id="snapshot"),
    ],
)
def test_an_error_calls_an_argument_by_its_own_name(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SandboxRequest(**arguments)


POOLED = read_settings(flags={"pool": "fast", "image": "base:1"}, environ={}, inis={})


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        pytest.param(SandboxRequest(pool="fast", env={"A": "1"}), SETTINGS, id="by the marker"),
        pytest.param(SandboxRequest(env={"A": "1"}), POOLED, id="by the option"),
    ],
)
def test_a_pool_decides_image_limits_and_network(asked, settings):
    opts = asked.opts(settings)

    assert opts.extensions == {"poolRef": "fast"}
    assert (opts.image, opts.resource_limits, opts.network_policy, opts.env) == (None, {}, None, {"A": "1"})
    assert "image" not in opts.to_wire()


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(SandboxRequest(image="a"), id="an image"),
        pytest.param(SandboxRequest(snapshot="a"), id="a snapshot"),
        pytest.param(SandboxRequest(resources={"cpu": "1"}), id="limits"),
        pytest.param(SandboxRequest(network="none"), id="a network"),
        pytest.param(SandboxRequest(pool=""), id="no pool"),
    ],
)
def test_what_a_pool_cannot_give_beats_the_pool_of_the_options(asked):
    assert asked.opts(POOLED).extensions == {}


@pytest.mark.parametrize("other", [{"image": "a"}, {"snapshot": "a"}, {"resources": {}}, {"network": "none"}], ids=str)
def test_a_pool_contradicts_what_it_decides_itself(other):
    with pytest.raises(ConfigError, match="pool must stand without image, snapshot, resources and network"):
        SandboxRequest(pool="fast", **other)


@pytest.mark.parametrize(
    ("network", "policy"),
    [
        pytest.param(None, None, id="not given"),
        pytest.param("none", NetworkPolicy(), id="the word none"),
        pytest.param(False, NetworkPolicy(), id="False"),
        pytest.param([], NetworkPolicy(), id="no host"),
        pytest.param(
            ["packages.example.org"],
            NetworkPolicy("deny", (EgressRule("allow", "packages.example.org"),)),
            id="one host",
        ),
        pytest.param(NetworkPolicy("allow"), NetworkPolicy("allow"), id="a policy"),
    ],
)
def test_network_is_a_word_hosts_or_a_policy(network, policy):
    assert SandboxRequest(network=network).opts(SETTINGS).network_policy == policy


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        pytest.param({"network": True}, "network must be 'none', a list", id="network True"),
        pytest.param({"network": "all"}, "network must be 'none', a list", id="network of another word"),
        pytest.param(
            {"network": ["packages.example.org", 1]}, "network must be 'none', a list", id="a host that is a number"
        ),
        pytest.param({"timeout": 0}, "timeout must be seconds", id="no time"),
        pytest.param({"timeout": "5"}, "timeout must be seconds", id="time as text"),
        pytest.param({"timeout": True}, "timeout must be seconds", id="time as a bool"),
        pytest.param({"timeout": float("nan")}, "timeout must be seconds", id="time that is no number"),
        pytest.param({"pool": "two words"}, "pool must be the name of a pool", id="pool of two words"),
        pytest.param({"image": 3}, "image must be a reference", id="image as a number"),
        pytest.param({"image": ""}, "image must be a reference", id="empty image"),
        pytest.param({"setup": 0}, "setup must be a command", id="setup as a number"),
        pytest.param({"put": "a=/a"}, "put must be a mapping", id="put as text"),
        pytest.param({"env": ["A=1"]}, "env must be a mapping", id="env as a list"),
        pytest.param({"env": {"A": 1}}, "must be text", id="env with a number"),
        pytest.param({"resources": "cpu=1"}, "^resources must be a mapping", id="resources as text"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_the_rule(argument, rule):
    with pytest.raises(ConfigError, match=rule):
        SandboxRequest(**argument).opts(SETTINGS)


def test_the_nearest_marker_wins_argument_by_argument():
    asked = read_markers([marker(image="function"), marker(image="class", timeout=5), marker(env={"A": "module"})])

    assert asked == SandboxRequest(image="function", timeout=5, env={"A": "module"})


def test_a_nearer_none_overrides_a_farther_marker():
    assert read_markers([marker(network=None), marker(network="none")]) == SandboxRequest()


def test_a_positional_argument_is_refused_with_the_names_that_there_are():
    names = "image, env, resources, timeout, network, pool, setup, put"
    with pytest.raises(ConfigError, match=rf"must be given by name \({names}\)"):
        read_markers([marker("python:3.12")])


def test_an_unknown_argument_is_refused_even_where_it_would_not_win():
    names = "image, env, resources, timeout, network, pool, setup, put"
    with pytest.raises(ConfigError, match=f"must be one of {names}; got 'imgae'"):
        read_markers([marker(image="a"), marker(imgae="b")])


def test_the_markers_help_names_every_argument():
    assert all(f"{name}=None" in MARKER_HELP for name in MARKER_ARGUMENTS)
