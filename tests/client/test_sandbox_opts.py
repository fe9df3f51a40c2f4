"""What may be asked of a sandbox: every rule names its field."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.client.sandbox_opts import EgressRule, NetworkPolicy, SandboxOpts, check_label, label_value
from pytest_opensandbox.errors import ConfigError

LEGAL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@given(st.text())
def test_any_text_becomes_a_legal_label(text):
    value = label_value(text)

    assert LEGAL.fullmatch(value)
    check_label("key", value)


@given(st.text())
def test_a_label_is_the_same_every_time_and_legal_text_is_its_own_label(text):
    value = label_value(text)

    assert label_value(text) == value
    assert label_value(value) == value


@given(st.from_regex(LEGAL, fullmatch=True))
def test_legal_text_is_left_alone(text):
    assert label_value(text) == text


@given(st.sets(st.text(alphabet="ab/:[ é-", max_size=4), min_size=2, max_size=40))
def test_different_texts_have_different_labels(texts):
    assert len({label_value(text) for text in texts}) == len(texts)


def test_a_long_node_id_keeps_its_readable_end():
    node = "tests/" + "deep/" * 30 + "test_a.py::TestX::test_sums[one two]"

    assert re.fullmatch(r".*TestX-test_sums-one-two-[0-9a-f]{10}", label_value(node))
    assert len(label_value(node)) <= 63


@pytest.mark.parametrize("key", ["run", "a.b_c-d", "example.org/run", "x" * 63, f"{'a' * 253}/k"])
@pytest.mark.parametrize("value", ["", "v", "x" * 63, "a.b_c-d"])
def test_legal_labels_pass(key, value):
    check_label(key, value)

    assert SandboxOpts(image="x", metadata={key: value}).to_wire()["metadata"] == {key: value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("", "v", id="empty key"),
        pytest.param("a b", "v", id="space in a key"),
        pytest.param("x" * 64, "v", id="long key"),
        pytest.param("-a", "v", id="dash first"),
        pytest.param("Upper.com/a", "v", id="upper case in a prefix"),
        pytest.param(f"{'a' * 254}/k", "v", id="long prefix"),
        pytest.param("a/b/c", "v", id="two slashes"),
        pytest.param("/a", "v", id="empty prefix"),
        pytest.param("opensandbox.io/id", "v", id="reserved prefix"),
        pytest.param("a", "tests/test_a.py::test_b", id="a node id as a value"),
        pytest.param("a", "x" * 64, id="long value"),
        pytest.param("a", "v\n", id="newline"),
        pytest.param("a", "é", id="not ASCII"),
    ],
)
def test_illegal_labels_are_refused_by_their_key(key, value):
    with pytest.raises(ConfigError, match="metadata") as caught:
        SandboxOpts(image="x", metadata={key: value})

    assert repr(key)[1:-1] in caught.value.field


@pytest.mark.parametrize("timeout", [60, 86_400, None])
def test_the_limits_of_the_timeout_are_legal(timeout):
    assert SandboxOpts(image="x", timeout=timeout).to_wire()["timeout"] == timeout


@pytest.mark.parametrize(
    ("field", "values"),
    [
        pytest.param("timeout", {"timeout": 59}, id="too short"),
        pytest.param("timeout", {"timeout": 86_401}, id="too long"),
        pytest.param("timeout", {"timeout": 60.5}, id="half a second"),
        pytest.param("timeout", {"timeout": True}, id="a boolean"),
        pytest.param("image", {"image": None}, id="no image"),
        pytest.param("image", {"snapshot_id": "p"}, id="an image and a snapshot"),
        pytest.param("image", {"image": "a b"}, id="a space in the image"),
        pytest.param("snapshot_id", {"image": None, "snapshot_id": ""}, id="an empty snapshot"),
        pytest.param("entrypoint", {"entrypoint": []}, id="no entrypoint"),
        pytest.param("entrypoint", {"entrypoint": "tail -f"}, id="text for a list"),
        pytest.param("entrypoint", {"entrypoint": ["a\0"]}, id="NUL"),
        pytest.param("env", {"env": {"A=B": "x"}}, id="equals sign in a name"),
        pytest.param("env", {"env": {"": "x"}}, id="no name"),
        pytest.param("env['A']", {"env": {"A": None}}, id="no value"),
        pytest.param("env['A']", {"env": {"A": "\0"}}, id="NUL in a value"),
        pytest.param("env", {"env": ["A=1"]}, id="a list for a mapping"),
        pytest.param("resource_limits['cpu']", {"resource_limits": {"cpu": "half"}}, id="cpu"),
        pytest.param("resource_limits['memory']", {"resource_limits": {"memory": "0.5Gi"}}, id="half a gibibyte"),
        pytest.param("resource_limits['memroy']", {"resource_limits": {"memroy": "1Gi"}}, id="a slip in a name"),
        pytest.param("resource_limits['cpu']", {"resource_limits": {"cpu": 1}}, id="a number for text"),
        pytest.param("extensions['poolRef']", {"extensions": {"poolRef": 1}}, id="extensions"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_its_field(field, values):
    with pytest.raises(ConfigError) as caught:
        SandboxOpts(**{"image": "x", **values})

    assert caught.value.field == field
    assert "must" in str(caught.value)


@pytest.mark.parametrize("limits", [{"cpu": "2"}, {"cpu": "0.5"}, {"cpu": "500m"}, {"memory": "512Mi"}, {"gpu": "1"}])
def test_resource_shapes_that_servers_read_are_legal(limits):
    assert SandboxOpts(image="x", resource_limits=limits).to_wire()["resourceLimits"] == limits


def test_a_snapshot_takes_the_place_of_an_image():
    body = SandboxOpts(snapshot_id="p1").to_wire()

    assert (body["snapshotId"], "image" in body) == ("p1", False)
    assert body["entrypoint"] == ["tail", "-f", "/dev/null"]


def test_a_pool_needs_no_image():
    assert SandboxOpts(extensions={"poolRef": "p"}).to_wire()["extensions"] == {"poolRef": "p"}


def test_a_guard_at_the_gateway_is_asked_for_by_name():
    assert SandboxOpts(image="a", secure_access=True).to_wire()["secureAccess"] is True
    assert "secureAccess" not in SandboxOpts(image="a").to_wire()


def test_a_network_policy_always_sends_both_fields():
    assert NetworkPolicy().to_wire() == {"defaultAction": "deny", "egress": []}


@pytest.mark.parametrize(
    ("field", "make"),
    [
        pytest.param("network.egress.action", lambda: EgressRule("maybe", "x"), id="action"),
        pytest.param("network.egress.target", lambda: EgressRule("allow", " "), id="target"),
        pytest.param("network.default_action", lambda: NetworkPolicy("maybe"), id="default"),
    ],
)
def test_a_network_rule_that_breaks_a_rule_is_refused(field, make):
    with pytest.raises(ConfigError) as caught:
        make()

    assert caught.value.field == field
