"""What a request says: its JSON, its paths, modes, patterns and ranges."""

import re

import pytest

from pytest_opensandbox.embedded.agent import http, paths
from pytest_opensandbox.embedded.agent.downloads import BadRangeError, first_range
from pytest_opensandbox.embedded.agent.paths import EntryError, octal
from pytest_opensandbox.embedded.agent.patterns import BadPatternError, matcher
from pytest_opensandbox.embedded.agent.sessions import duration

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
    with pytest.raises(paths.UnusablePathError, match=r"undefined environment variables: B,C$"):
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
def test_a_mode_with_other_digits_is_refused_in_gos_words(digits):
    with pytest.raises(EntryError, match=f'strconv.ParseUint: parsing "{digits}": invalid syntax'):
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


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(b"", "EOF", id="nothing"),
        pytest.param(b'{"a":', "unexpected EOF", id="no end"),
        pytest.param(b'{"a":"x', "unexpected EOF", id="text without end"),
        pytest.param(b"{nope", "invalid character 'n' looking for beginning of object key string", id="no key"),
        pytest.param(b'{"a" 1}', "invalid character '1' after object key", id="no colon"),
        pytest.param(b"nonsense", "invalid character 'n' looking for beginning of value", id="no value"),
    ],
)
def test_what_is_wrong_with_json_is_said_in_gos_words(body, complaint):
    with pytest.raises(http.BadBodyError, match=f"^{re.escape(complaint)}$"):
        http.parse(body)


def test_what_follows_the_json_is_ignored():
    assert http.parse(b' {"a":1} trailing') == {"a": 1}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        pytest.param(5, r"cannot unmarshal number into Go struct field Model\.command of type string", id="number"),
        pytest.param(True, r"cannot unmarshal bool into Go struct field Model\.command of type string", id="boolean"),
        pytest.param([], r"cannot unmarshal array into Go struct field Model\.command of type string", id="array"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(value, complaint):
    fields = http.Fields({"command": value}, "Model")

    with pytest.raises(http.BadBodyError, match=complaint):
        fields.text("command")


def test_a_boolean_is_no_number():
    with pytest.raises(http.BadBodyError, match=r"bool into Go struct field Model\.timeout of type int64"):
        http.Fields({"timeout": True}, "Model").number("timeout")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        pytest.param(300, "300ms", id="below a second"),
        pytest.param(1500, "1.5s", id="a fraction"),
        pytest.param(60_000, "1m0s", id="a minute"),
        pytest.param(86_400_000, "24h0m0s", id="a day"),
    ],
)
def test_durations_are_written_as_go_does(milliseconds, text):
    assert duration(milliseconds) == text
