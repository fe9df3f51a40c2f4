"""Paths and modes of requests."""

import pytest

from pytest_opensandbox.embedded.agent import paths
from pytest_opensandbox.embedded.agent.paths import octal

ENVIRONMENT = {"HOME": "/home/me", "A": "1", "A_B": "2"}


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        pytest.param("/x/$A/y", "/x/1/y", id="name"),
        pytest.param("/x/${A}y", "/x/1y", id="name in braces"),
        pytest.param("/x/$A_B", "/x/2", id="longest name"),
        pytest.param("/x/d$", "/x/d$", id="a dollar at the end stays"),
        pytest.param("/x/$.y", "/x/$.y", id="a dollar before no name stays"),
        pytest.param("/x/$$/$1y", "/x//y", id="shell specials vanish"),
        pytest.param("/x/${}z${", "/x/z", id="empty and unclosed braces vanish"),
        pytest.param("~", "/home/me", id="home"),
        pytest.param("~/y", "/home/me/y", id="below home"),
        pytest.param("~you/y", "~you/y", id="another user's home is not known"),
        pytest.param("/x/~", "/x/~", id="a tilde elsewhere stays"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_variables_and_home_are_expanded_in_a_path(path, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert paths.expand(path, ENVIRONMENT) == expanded


def test_a_path_with_unknown_variables_names_them_in_order():
    with pytest.raises(OSError, match=r"undefined environment variables: B,C"):
        paths.expand("/$C/${B}/$C", ENVIRONMENT)


def test_an_absolute_path_has_no_dots_and_single_slashes():
    assert paths.absolute("//x/./y/../z//") == "/x/z"


@pytest.mark.parametrize(
    ("digits", "bits"),
    [
        pytest.param(755, 0o755, id="decimal digits are octal"),
        pytest.param(7, 0o007, id="one digit"),
        pytest.param(4755, 0o755, id="set-id bit dropped"),
        pytest.param(420, 0o420, id="0o644 as a plain integer is taken for 0o420"),
    ],
)
def test_a_mode_is_read_by_its_digits(digits, bits):
    assert octal(digits) == bits


@pytest.mark.parametrize("digits", [pytest.param(493, id="a nine"), pytest.param(-1, id="negative")])
def test_a_mode_with_other_digits_is_refused(digits):
    with pytest.raises(OSError, match=f"mode {digits} is not octal"):
        octal(digits)
