"""The table of options, and the rules that its texts follow."""

import math

import pytest

from pytest_opensandbox.settings.options import OPTIONS, parse_url
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


def test_no_two_options_share_a_name_a_flag_a_key_or_a_variable():
    for attribute in ("name", "flag", "ini", "env", "dest"):
        values = [getattr(option, attribute) for option in OPTIONS]

        assert len(set(values)) == len(values), attribute


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_default_follows_its_own_rule(option):
    if option.default is None:
        assert option.default_text
    else:
        assert option.parse(option.default) is not None


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_names_are_derived_from_one_word(option):
    assert option.flag == "--opensandbox-" + option.name.replace("_", "-")
    assert option.ini == "opensandbox_" + option.name
    assert option.env in ("OPENSANDBOX_" + option.name.upper(), "OPEN_SANDBOX_DOMAIN", "OPEN_SANDBOX_USE_SERVER_PROXY")


def test_only_switches_have_flags_that_say_no():
    assert [option.off_flag for option in OPTIONS if option.off_flag] == [
        "--no-opensandbox-server-proxy",
        "--no-opensandbox-signals",
    ]


@pytest.mark.parametrize("word", ["embedded", "docker"])
def test_the_words_of_url_stay_as_they_are(word):
    assert parse_url(word) == word


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param("http://localhost:8080", "http://localhost:8080", id="host and port"),
        pytest.param("https://sandbox.example/", "https://sandbox.example", id="slash at the end"),
        pytest.param("http://[::1]:8080", "http://[::1]:8080", id="IPv6"),
        pytest.param("https://gateway.example/opensandbox/", "https://gateway.example/opensandbox", id="path prefix"),
    ],
)
def test_a_url_is_kept_without_the_slash_at_its_end(text, url):
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("Embedded", id="another case"),
        pytest.param("localhost:8080", id="no scheme"),
        pytest.param("ftp://host", id="another scheme"),
        pytest.param("http://", id="no host"),
        pytest.param("http://host:0", id="port 0"),
        pytest.param("http://host:99999", id="port beyond range"),
        pytest.param("http://host:port", id="port is a word"),
        pytest.param("http://ho st", id="white space"),
        pytest.param("http://[::1", id="broken IPv6"),
    ],
)
def test_another_url_is_refused_with_the_three_that_are_not(text):
    with pytest.raises(ValueError, match=r"^be 'embedded', 'docker' or a URL that begins with http:// or https://$"):
        parse_url(text)


@pytest.mark.parametrize("text", ["http://me:secret@host", "http://host?key=1", "http://host#part"])
def test_a_url_holds_nothing_secret(text):
    with pytest.raises(ValueError, match="the key comes from OPEN_SANDBOX_API_KEY"):
        parse_url(text)


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
def test_files_that_are_no_pairs_are_refused(text):
    with pytest.raises(ValueError, match="be path=/path pairs"):
        parse_put(text)


def test_a_setup_holds_no_nul():
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
def test_a_time_limit_is_never_nothing_and_never_forever(text):
    with pytest.raises(ValueError, match=r"^be seconds, more than 0 and at most 86400$"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("off", False), (" 0 ", False)]
)
def test_a_switch_reads_what_ini_files_say(text, value):
    assert parse_switch(text) is value


@pytest.mark.parametrize("text", ["", "maybe", "2"])
def test_a_switch_refuses_every_other_word(text):
    with pytest.raises(ValueError, match="be yes or no"):
        parse_switch(text)
