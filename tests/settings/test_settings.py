"""The settings of a run: which place wins, what is refused, and what is never shown."""

from pathlib import Path

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.settings.options import OPTIONS
from pytest_opensandbox.settings.settings import read_settings

TESTS = Path(__file__).parents[1]

VALUES = {
    "url": ("http://flag:1", "http://variable:2", "http://ini:3"),
    "image": ("flag:1", "variable:2", "ini:3"),
    "resources": ("cpu=1", "cpu=2", "cpu=3"),
    "setup": ("true", "echo 1\necho 2", "echo 3"),
    "put": ("a=/a", "b=/b", "c=/c"),
    "setup_timeout": ("1", "2", "3"),
    "lease": ("61", "62", "63"),
    "ready_timeout": ("1", "2", "3"),
    "command_timeout": ("1", "2", "3"),
    "server_proxy": ("yes", "no", "yes"),
    "execd_image": ("flag:1", "variable:2", "ini:3"),
    "egress_image": ("flag:1", "variable:2", "ini:3"),
    "signals": ("no", "yes", "no"),
    "pool": ("flag", "variable", "ini"),
    "ca_bundle": (
        __file__,
        str(Path(__file__).parents[1] / "scripted_servers.py"),
        str(Path(__file__).parents[1] / "conftest.py"),
    ),
}
RULES = {"image": "host"}  # the options whose default is a rule and no text


def settings(*, flags=None, environ=None, inis=None, project=""):
    return read_settings(flags=flags or {}, environ=environ or {}, inis=inis or {}, project=project)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_flag_beats_the_environment_ini_and_the_default(option):
    flag, variable, ini = VALUES[option.name]
    given = {"flags": {option.name: flag}, "environ": {option.env: variable}, "inis": {option.name: ini}}

    read = []
    for place, text, source in (("flags", flag, "flag"), ("environ", variable, "environment"), ("inis", ini, "ini")):
        read.append((settings(**given), text, source))
        del given[place]
    read.append((settings(), option.default, "default"))

    for found, text, source in read:
        value = getattr(found, option.field)
        assert found.sources[option.name] == source
        assert value == (RULES.get(option.name) if text is None else option.parse(text))


def test_every_option_has_a_value_in_this_test():
    assert set(VALUES) == {option.name for option in OPTIONS}


def test_a_falsy_flag_still_beats_ini():
    found = settings(flags={"resources": "", "server_proxy": "no"}, inis={"resources": "cpu=1", "server_proxy": "yes"})

    assert found.resources == {}
    assert found.server_proxy is False
    assert found.sources["resources"] == found.sources["server_proxy"] == "flag"


def test_an_empty_flag_is_parsed_and_not_skipped():
    with pytest.raises(ConfigError, match="--opensandbox-image must be an image reference"):
        settings(flags={"image": ""}, inis={"image": "python:3.12"})


def test_an_empty_variable_counts_as_not_set():
    found = settings(environ={"OPEN_SANDBOX_DOMAIN": "", "OPEN_SANDBOX_API_KEY": "", "OPENSANDBOX_LEASE": ""})

    assert found.url == "embedded"
    assert found.api_key is None
    assert found.lease_seconds == 120


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        pytest.param(
            {"OPEN_SANDBOX_DOMAIN": "example.org:8080"},
            "http://example.org:8080",
            id="http by default",
        ),
        pytest.param(
            {"OPEN_SANDBOX_DOMAIN": "example.org:8080", "OPEN_SANDBOX_PROTOCOL": "https"},
            "https://example.org:8080",
            id="protocol",
        ),
        pytest.param(
            {"OPEN_SANDBOX_DOMAIN": "http://example.org", "OPEN_SANDBOX_PROTOCOL": "https"},
            "http://example.org",
            id="scheme wins",
        ),
        pytest.param(
            {"OPEN_SANDBOX_DOMAIN": "example.org:8080", "OPEN_SANDBOX_PROTOCOL": "HTTPS"},
            "https://example.org:8080",
            id="any case",
        ),
        pytest.param({"OPEN_SANDBOX_DOMAIN": "[::1]:8080"}, "http://[::1]:8080", id="IPv6"),
        pytest.param({"OPEN_SANDBOX_DOMAIN": "example.org:8080/v1/"}, "http://example.org:8080/v1", id="with v1"),
        pytest.param({"OPEN_SANDBOX_DOMAIN": "embedded"}, "embedded", id="embedded"),
        pytest.param({"OPEN_SANDBOX_DOMAIN": "docker"}, "docker", id="docker"),
    ],
)
def test_the_servers_own_variable_may_lack_a_scheme(environ, url):
    assert settings(environ=environ).url == url


def test_a_file_with_certificates_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="--opensandbox-ca-bundle must be a file with certificates"):
        settings(flags={"ca_bundle": str(tmp_path / "none.pem")})


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="OPEN_SANDBOX_PROTOCOL must be http or https; got 'ftp'"):
        settings(environ={"OPEN_SANDBOX_DOMAIN": "example.org", "OPEN_SANDBOX_PROTOCOL": "ftp"})


@pytest.mark.parametrize(
    ("url", "image"),
    [("embedded", "host"), ("docker", "python:3.12-slim"), ("http://example.org", "python:3.12-slim")],
)
def test_the_default_image_is_one_that_the_server_has(url, image):
    found = settings(flags={"url": url})

    assert found.image == image
    assert found.sources["image"] == "default"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        pytest.param({"flags": {"lease": "5"}}, "--opensandbox-lease", id="flag"),
        pytest.param({"environ": {"OPENSANDBOX_LEASE": "5"}}, "OPENSANDBOX_LEASE", id="variable"),
        pytest.param({"inis": {"lease": "5"}}, "opensandbox_lease", id="ini key"),
    ],
)
def test_a_bad_value_is_named_by_its_place(given, name):
    with pytest.raises(ConfigError) as caught:
        settings(**given)

    assert str(caught.value) == f"{name} must be whole seconds, 60 to 86400; got '5'"


def test_a_limit_that_the_server_would_refuse_is_refused_here():
    with pytest.raises(ConfigError, match=r"^--opensandbox-resources\['memory'\] must be whole bytes"):
        settings(flags={"resources": "memory=0.5Gi"})


def test_a_password_in_a_url_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        settings(flags={"url": "http://me:hunter2@example.org"})

    assert "hunter2" not in str(caught.value)


def test_the_key_comes_from_the_environment_and_is_not_shown():
    found = settings(environ={"OPEN_SANDBOX_API_KEY": "hunter2"})

    assert found.api_key == "hunter2"
    assert "hunter2" not in f"{found!r} {found} {found.api_key!r}"


def test_a_key_that_no_header_can_carry_is_refused_unseen():
    with pytest.raises(ConfigError, match="OPEN_SANDBOX_API_KEY must be printable ASCII") as caught:
        settings(environ={"OPEN_SANDBOX_API_KEY": "hunter2\n"})

    assert "hunter2" not in str(caught.value)


def test_the_project_becomes_a_legal_label():
    assert settings(project="my project/ü").project.startswith("my-project-")
    assert settings(project="plain").project == "plain"


def test_the_place_of_a_value_is_its_flag_variable_or_ini_key():
    found = settings(flags={"image": "a:1"}, environ={"OPENSANDBOX_LEASE": "61"}, inis={"pool": "fast"})

    places = [found.place_of(name) for name in ("image", "lease", "pool", "url")]

    assert places == ["--opensandbox-image", "OPENSANDBOX_LEASE", "opensandbox_pool", "default"]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_only_some_options_take_the_lists_of_toml(option):
    if option.takes_lists:
        assert settings(inis={option.name: []}).sources[option.name] == "ini"
    else:
        with pytest.raises(ConfigError, match=f"^{option.ini} must be one value, not a list or a table"):
            settings(inis={option.name: ["a"]})


@pytest.mark.parametrize(
    ("name", "value", "field", "result"),
    [
        pytest.param("lease", 90, "lease_seconds", 90, id="number"),
        pytest.param("ready_timeout", 0.5, "ready_timeout_seconds", 0.5, id="fraction"),
        pytest.param("signals", False, "signals", False, id="boolean"),
    ],
)
def test_numbers_and_booleans_of_toml_are_read(name, value, field, result):
    assert getattr(settings(inis={name: value}), field) == result
