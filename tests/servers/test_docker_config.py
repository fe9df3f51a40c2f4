"""The configuration of opensandbox-server and the errors of its start; tests/server has an engine."""

import importlib
import stat
import sys

import pytest

from pytest_opensandbox.sandbox.tracking import TAG_RUN
from pytest_opensandbox.servers.docker_config import (
    DockerStartError,
    ServerFiles,
    check_libraries,
    config_text,
    engine_error,
    example_images,
)

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture
def files(tmp_path):
    return ServerFiles(tmp_path)


def config_of(files, **changes):
    values = {"port": 1234, "api_key": "hunter2", "execd_image": "execd:1", "egress_image": "egress:1", **changes}
    return tomllib.loads(config_text(files, **values))


def test_the_server_and_its_sandboxes_listen_on_loopback(files):
    config = config_of(files)

    assert config["server"] == {"host": "127.0.0.1", "port": 1234, "api_key": "hunter2"}
    assert config["docker"] == {"network_mode": "bridge", "publish_host": "127.0.0.1"}


def test_all_files_are_in_the_servers_own_directory(files):
    config = config_of(files)

    for path in (config["store"]["path"], config["log"]["file_path"], config["log"]["access_file_path"]):
        assert path.startswith(f"{files.directory}/")


def test_the_images_are_those_of_the_options(files):
    config = config_of(files, execd_image='a"b\\c', egress_image="é:1")

    assert config["runtime"] == {"type": "docker", "execd_image": 'a"b\\c'}
    assert config["egress"] == {"image": "é:1"}


def test_a_file_with_a_key_is_for_this_user_only(files):
    files.write(files.handover, "{}")

    assert stat.S_IMODE(files.handover.stat().st_mode) == 0o600


def test_the_default_images_are_those_of_the_servers_example():
    pytest.importorskip("opensandbox_server", reason="the extra docker is not installed")

    execd, egress = example_images()

    assert execd.startswith("opensandbox/execd:")
    assert egress.startswith("opensandbox/egress:")


def test_a_missing_library_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "docker" else name)

    with pytest.raises(DockerStartError, match="it needs docker, not installed for") as caught:
        check_libraries()

    assert caught.value.cause == "pip install 'opensandbox-server>=1.1.1'"


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        pytest.param(
            "('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))",
            "no Docker engine answers at unix:///x",
            "start Docker",
            id="no socket",
        ),
        pytest.param(
            "Failed to establish a new connection: [Errno 111] Connection refused",
            "no Docker engine answers at unix:///x",
            "DOCKER_HOST",
            id="connection refused",
        ),
        pytest.param(
            "('Connection aborted.', PermissionError(13, 'Permission denied'))",
            "the Docker engine at unix:///x refuses this user",
            "usermod -aG docker",
            id="no permission",
        ),
        pytest.param(
            "Invalid bind address", "cannot be used: Invalid bind address", "docker version", id="anything else"
        ),
        pytest.param("", "cannot be used: OSError", "docker version", id="no text"),
    ],
)
def test_an_engine_that_fails_is_named_with_the_remedy(text, message, remedy):
    error = engine_error("unix:///x", OSError(text))

    assert message in str(error)
    assert remedy in error.cause


def test_the_label_is_one_that_docker_reads_as_key_and_value():
    assert "=" not in TAG_RUN
