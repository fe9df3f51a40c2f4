"""What a request says: its JSON, its paths, modes, patterns and ranges."""

import pytest

from pytest_opensandbox.embedded.agent import http, paths
from pytest_opensandbox.embedded.agent.downloads import BadRangeError, first_range
from pytest_opensandbox.embedded.agent.http import BadBodyError, JsonObject
from pytest_opensandbox.embedded.agent.paths import octal
from pytest_opensandbox.embedded.agent.patterns import BadPatternError, matcher

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
        pytest.param("~you/y", "~you/y", id="somebody else's home is not known"),
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


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        pytest.param("*.txt", "a.txt", True, id="star"),
        pytest.param("**/*.txt", "a.txt", True, id="double star and slash stand for nothing"),
        pytest.param("**", "a.txt", True, id="double star"),
        pytest.param("d/*.txt", "a.txt", False, id="a directory never matches"),
        pytest.param("?.txt", "é.txt", True, id="one character"),
        pytest.param("[a-c].txt", "b.txt", True, id="class"),
        pytest.param("[!a-c].txt", "b.txt", False, id="class negated"),
        pytest.param("[^a-c].txt", "d.txt", True, id="class negated the other way"),
        pytest.param("{a,b}.{txt,sh}", "b.sh", True, id="alternatives"),
        pytest.param("{a,{b,c}}x", "cx", True, id="alternatives in alternatives"),
        pytest.param("a+b", "aab", False, id="no regular expression"),
        pytest.param("\\*", "*", True, id="escaped star"),
        pytest.param("!(*.txt)", "a.txt", False, id="negation"),
        pytest.param("*!(.txt)", "a.sh", True, id="negation after a star"),
        pytest.param("A.txt", "a.txt", False, id="case counts"),
        pytest.param(".*", ".profile", True, id="hidden files are files"),
        pytest.param("*", "a\nb", True, id="a line break is a character"),
    ],
)
def test_a_pattern_is_compared_with_the_base_name(pattern, name, matches):
    assert matcher(pattern)(name) is matches


@pytest.mark.parametrize("pattern", ["[", "a[]", "{", "{a", "}", "\\", "!", "!(a"])
def test_a_bad_pattern_is_only_noticed_when_there_is_a_name_to_compare(pattern):
    compare = matcher(pattern)

    with pytest.raises(BadPatternError):
        compare("a")


@pytest.mark.parametrize(
    ("header", "span"),
    [
        pytest.param("bytes=2-5", (2, 6), id="from to"),
        pytest.param("bytes=2-", (2, 11), id="from"),
        pytest.param("bytes=-5", (6, 11), id="the last"),
        pytest.param("bytes=-50", (0, 11), id="more than there is"),
        pytest.param("bytes=5-100", (5, 11), id="past the end"),
        pytest.param("bytes=100-, 1-2", (1, 3), id="the first that lies within"),
        pytest.param("bytes=11-", None, id="nothing there"),
    ],
)
def test_a_range_is_cut_to_the_file(header, span):
    assert first_range(header, 11) == span


@pytest.mark.parametrize("header", ["items=0-1", "bytes=5-2", "bytes=a-b", "bytes=3", "bytes=-", "bytes=²-"])
def test_a_range_that_makes_no_sense_is_an_error(header):
    with pytest.raises(BadRangeError):
        first_range(header, 11)


@pytest.mark.parametrize("body", [b"", b'{"a":', b'{"a":"x', b"{nope", b'{"a" 1}', b"nonsense"])
def test_a_body_that_is_no_json_is_refused(body):
    with pytest.raises(BadBodyError, match="no JSON"):
        http.parse(body)


def test_what_follows_the_json_is_ignored():
    assert http.parse(b' {"a":1} trailing') == {"a": 1}


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_a_field_of_the_wrong_type_is_named(value):
    with pytest.raises(BadBodyError, match="command: a string is expected"):
        JsonObject({"command": value}).text("command")


@pytest.mark.parametrize("value", [True, "1", 1.0])
def test_only_an_integer_is_a_number(value):
    with pytest.raises(BadBodyError, match="timeout: an integer is expected"):
        JsonObject({"timeout": value}).number("timeout")


def test_a_number_out_of_range_is_refused():
    with pytest.raises(BadBodyError, match="uid: -1 is out of range"):
        JsonObject({"uid": -1}).number("uid", range(10))
