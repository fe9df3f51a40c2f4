"""The parsers of the options: what text, lists and tables become, and what is refused."""

import math

import pytest

from pytest_opensandbox.settings.parsing import (
    parse_image,
    parse_lease,
    parse_pool,
    parse_put,
    parse_resources,
    parse_seconds,
    parse_setup,
    parse_switch,
)


def test_a_pool_is_a_name_or_none():
    assert [parse_pool(text) for text in ("", "fast")] == ["", "fast"]
    with pytest.raises(ValueError, match="name of a pool"):
        parse_pool("two words")


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        pytest.param("", (), id="none"),
        pytest.param("pip install -r a.txt", ("pip install -r a.txt",), id="one"),
        pytest.param("\n  make\n\n  make install  \n", ("make", "make install"), id="as an ini file has them"),
    ],
)
def test_a_setup_is_one_command_a_line(text, commands):
    assert parse_setup(text) == commands


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        pytest.param("", {}, id="none"),
        pytest.param("a.txt=/in/a.txt, dir = /in/dir", {"a.txt": "/in/a.txt", "dir": "/in/dir"}, id="commas"),
        pytest.param("\n a=/b=c\n d e=/f", {"a": "/b=c", "d e": "/f"}, id="as an ini file has them"),
    ],
)
def test_files_are_pairs_of_paths(text, targets):
    assert parse_put(text) == targets


@pytest.mark.parametrize("text", ["a", "a=", "=/a", "a=b", "a=/b,a=/c", "a\0=/b"])
def test_files_that_are_not_pairs_are_refused(text):
    with pytest.raises(ValueError, match="be path=/path pairs"):
        parse_put(text)


def test_a_setup_with_nul_is_refused():
    with pytest.raises(ValueError, match="without NUL"):
        parse_setup("a\0b")


@pytest.mark.parametrize("text", ["", "two words", "tab\there"])
def test_an_image_is_a_reference_without_white_space(text):
    with pytest.raises(ValueError, match="image reference"):
        parse_image(text)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        pytest.param("cpu=1,memory=512Mi", {"cpu": "1", "memory": "512Mi"}, id="two"),
        pytest.param(" cpu = 500m , ", {"cpu": "500m"}, id="spaces and a comma at the end"),
        pytest.param("", {}, id="none at all"),
    ],
)
def test_resources_are_pairs_with_commas_between_them(text, limits):
    assert parse_resources(text) == limits


@pytest.mark.parametrize("text", ["cpu", "cpu=", "=1", "cpu=1,cpu=2", "cpu:1"])
def test_resources_that_are_not_pairs_are_refused(text):
    with pytest.raises(ValueError, match="each name once"):
        parse_resources(text)


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("86400", 86400), (" 120 ", 120)])
def test_a_lease_is_whole_seconds(text, seconds):
    assert parse_lease(text) == seconds


@pytest.mark.parametrize("text", ["", "59", "86401", "90.5", "2m", "-60", "1_000", "٩٩", "9" * 5000])
def test_a_lease_outside_the_servers_range_is_refused(text):
    with pytest.raises(ValueError, match=r"^be whole seconds, 60 to 86400$"):
        parse_lease(text)


@pytest.mark.parametrize(("text", "seconds"), [("0.5", 0.5), ("60", 60.0), ("1e3", 1000.0)])
def test_a_time_limit_is_seconds(text, seconds):
    assert math.isclose(parse_seconds(text), seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "86401", "soon"])
def test_a_time_limit_is_more_than_0_and_at_most_a_day(text):
    with pytest.raises(ValueError, match=r"^be seconds, more than 0 and at most 86400$"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("off", False), (" 0 ", False)]
)
def test_a_switch_reads_the_spellings_of_ini_files(text, value):
    assert parse_switch(text) is value


@pytest.mark.parametrize("text", ["", "maybe", "2"])
def test_a_switch_refuses_every_other_word(text):
    with pytest.raises(ValueError, match="be yes or no"):
        parse_switch(text)


@pytest.mark.parametrize(
    ("parse", "value", "result"),
    [
        pytest.param(parse_resources, ["cpu=1", "memory=1Gi"], {"cpu": "1", "memory": "1Gi"}, id="list of limits"),
        pytest.param(parse_resources, {"cpu": 1, "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, id="table of limits"),
        pytest.param(parse_setup, ["true", " ", "a\nb "], ("true", "a\nb"), id="list of commands"),
        pytest.param(parse_put, ["a,b=/c", "d = /e f"], {"a,b": "/c", "d": "/e f"}, id="list of paths"),
        pytest.param(parse_put, {"a=b": "/c"}, {"a=b": "/c"}, id="table of paths"),
        pytest.param(parse_put, [], {}, id="no paths"),
    ],
)
def test_lists_and_tables_of_toml_are_read(parse, value, result):
    assert parse(value) == result


@pytest.mark.parametrize(
    ("parse", "value", "rule"),
    [
        pytest.param(parse_resources, ["cpu"], "be name=value pairs", id="limits without a value"),
        pytest.param(parse_setup, [1], "be text with a command a line", id="a command that is a number"),
        pytest.param(parse_setup, {"a": "b"}, "be text with a command a line", id="a table of commands"),
        pytest.param(parse_setup, ["a\0"], "without NUL", id="a command with NUL"),
        pytest.param(parse_put, ["a"], 'a list of "path=/path"', id="paths without a target"),
        pytest.param(parse_put, ["a=/b", "a=/c"], 'a list of "path=/path"', id="a path twice"),
        pytest.param(parse_put, {"a": "b"}, 'a list of "path=/path"', id="a relative target"),
        pytest.param(parse_put, {"a": 1}, 'a list of "path=/path"', id="a target that is a number"),
    ],
)
def test_other_lists_and_tables_are_refused(parse, value, rule):
    with pytest.raises(ValueError, match=rule):
        parse(value)
