"""The table of options, and the rules of its URL."""

import pytest

from pytest_opensandbox.settings.options import OPTIONS, parse_url


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


def test_only_switches_have_a_flag_that_turns_them_off():
    assert [option.off_flag for option in OPTIONS if option.off_flag] == [
        "--no-opensandbox-server-proxy",
        "--no-opensandbox-signals",
    ]


@pytest.mark.parametrize("word", ["embedded", "docker"])
def test_the_named_backends_are_no_urls(word):
    assert parse_url(word) == word


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param("http://localhost:8080", "http://localhost:8080", id="host and port"),
        pytest.param("https://example.org/", "https://example.org", id="slash at the end"),
        pytest.param("http://[::1]:8080", "http://[::1]:8080", id="IPv6"),
        pytest.param("https://example.org/opensandbox/", "https://example.org/opensandbox", id="path prefix"),
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
def test_another_url_is_refused_with_the_three_legal_forms(text):
    with pytest.raises(ValueError, match=r"^be 'embedded', 'docker' or a URL that begins with http:// or https://$"):
        parse_url(text)


@pytest.mark.parametrize("text", ["http://me:secret@host", "http://host?key=1", "http://host#part"])
def test_a_url_holds_nothing_secret(text):
    with pytest.raises(ValueError, match="the key comes from OPEN_SANDBOX_API_KEY"):
        parse_url(text)


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        pytest.param("resources", "cpu=1,memory=1Gi", "cpu=1,memory=1Gi", id="limits"),
        pytest.param("setup", "", "none", id="no commands"),
        pytest.param("setup", "make\nmake install", "make; make install", id="commands"),
        pytest.param("lease", "90", "90 s", id="seconds"),
        pytest.param("signals", "off", "no", id="switch"),
        pytest.param("put", "a=/" + "b" * 100, "a=/" + "b" * 56 + "…", id="long paths"),
    ],
)
def test_the_row_shows_what_it_reads(name, text, shown):
    option = next(option for option in OPTIONS if option.name == name)

    assert option.shown(option.parse(text)) == shown
