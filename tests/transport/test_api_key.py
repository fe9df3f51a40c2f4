"""The key: usable as a header, and shown by nothing."""

import copy
import pickle

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.text import MaskedText, redacted
from pytest_opensandbox.transport.api_key import masked


def test_a_key_is_text_that_its_repr_hides():
    key = masked("s3cret")

    assert key.encode("ascii") == b"s3cret"
    assert "s3cret" not in repr(key)
    assert "s3cret" not in repr({"OPEN-SANDBOX-API-KEY": key})


@pytest.mark.parametrize("key", ["s3cret\nb", "s3cret\r\nX: y", "s3crét", " s3cret", "s3cret ", "s3cret\0"])
def test_what_cannot_stand_in_a_header_is_refused_without_being_shown(key):
    with pytest.raises(ConfigError, match="api_key") as caught:
        masked(key)

    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_an_empty_one(key):
    assert masked(key) == ""


@pytest.mark.parametrize("carry", [pickle.dumps, copy.deepcopy])
def test_a_key_is_not_pickled(carry):
    with pytest.raises(TypeError, match="pickled"):
        carry(masked("s3cret"))


def test_a_key_that_comes_back_is_replaced():
    assert masked("s3cret").redact("key s3cret is wrong") == "key *** is wrong"
    assert masked(None).redact("text") == "text"


def test_text_is_redacted_by_the_longest_secret_first_and_short_ones_stay():
    assert redacted("abcdef-1 abcdef ab", ["abcdef", "abcdef-1", "ab"]) == "*** *** ab"


@pytest.mark.parametrize(
    "carry", [lambda text: pickle.loads(pickle.dumps(text)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_masked_text_stays_masked_when_it_is_carried(carry):
    assert carry(MaskedText("s3cret")) == "s3cret"
    assert repr(carry(MaskedText("s3cret"))) == "'***'"
