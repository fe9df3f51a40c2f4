"""The errors: one tree, facts as attributes, texts that say what to do."""

import inspect
import pickle
import re

import pytest

from pytest_opensandbox import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = re.findall(r"^[│├└─ ]*(\w+(?:Error|Warning))", errors.__doc__ or "", re.MULTILINE)

    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_root_and_says_what_it_is(kind):
    assert issubclass(kind, (errors.OpenSandboxError, errors.OpenSandboxWarning))
    assert kind.__doc__


@pytest.mark.parametrize("kind", [errors.ReadyTimeoutError, errors.CommandTimeoutError])
def test_timeouts_can_be_caught_as_the_builtin(kind):
    assert issubclass(kind, TimeoutError)


def test_a_config_error_is_a_value_error_that_names_field_rule_and_value():
    error = errors.ConfigError("timeout", "be at least 60", 5)

    assert isinstance(error, ValueError)
    assert str(error) == "timeout must be at least 60; got 5"
    assert (error.field, error.rule) == ("timeout", "be at least 60")


def test_a_transport_error_says_what_was_asked_of_whom():
    error = errors.TransportError("connection refused", method="GET", url="http://h/x", timed_out=True)

    assert str(error) == "connection refused (GET http://h/x)"
    assert (error.method, error.url, error.timed_out) == ("GET", "http://h/x", True)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        pytest.param(errors.FileTooLargeError("/x", size_bytes=9, max_bytes=8), "raise max_bytes", id="too large"),
        pytest.param(errors.UnsafeArchiveError("a", "it climbs"), "remove it or get single files", id="unsafe"),
        pytest.param(errors.CommandTimeoutError("x", timeout_seconds=1), "raise timeout=", id="command timeout"),
        pytest.param(errors.SandboxClosedError("s1"), "make longer-lived ones in a fixture", id="closed"),
        pytest.param(errors.SweepError(["s1"], "no answer"), "its lease will end it", id="sweep"),
    ],
)
def test_an_error_says_what_to_do_next(error, advice):
    assert advice in str(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errors.ApiError(500, code="X", message="m", method="GET", url="u"), id="keyword arguments"),
        pytest.param(errors.ReadyTimeoutError(sandbox_id="s", waited_seconds=1, attempts=2), id="two bases"),
        pytest.param(errors.SweepError(["s1"], "why"), id="positional arguments"),
    ],
)
def test_an_error_is_copied_with_its_facts(error):
    # xdist and process pools carry exceptions between processes, without the arguments that made them.
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_an_answer_that_is_not_of_a_request_says_so_without_one():
    assert str(errors.NotFoundError(404, message="no such file")) == "no such file (404)"


def test_a_ready_timeout_says_how_long_how_often_and_what_to_do():
    text = str(errors.ReadyTimeoutError(sandbox_id="s1", waited_seconds=60, attempts=70, last_state="Pending"))

    assert "s1 was not ready after 60.0 s and 70 polls (last state Pending)" in text
    assert "--opensandbox-ready-timeout" in text


def test_long_output_is_shown_by_its_end():
    error = errors.CommandError("x", exit_code=1, stdout="a" * 5_000 + "the end")

    assert "the end" in str(error)
    assert len(str(error)) < 2_500
    assert len(error.stdout) == 5_007


def test_a_failed_sandbox_shows_reason_message_and_log():
    text = str(
        errors.SandboxFailedError(sandbox_id="s1", state="Failed", reason="OOM", message="too big", logs="last line")
    )

    assert "OOM: too big" in text
    assert text.endswith("last line")
