"""No engine, no image, an agent that cannot run: one clear error with the remedy, and nothing left behind."""

import re
import sys

import pytest

from pytest_opensandbox import ServerStartError
from pytest_opensandbox.servers.server_process import start_docker


def test_an_agent_image_that_cannot_run_leaves_no_helper(pytester, client, images):
    """The server forgets the container that it reads the agent from where the container does not start."""
    name = f"{images.execd.split(':')[0]}-unable:1"
    client.api.import_image_from_data(b"\0" * 10240, repository=name.split(":")[0], tag="1")
    before = {found["Id"] for found in client.api.containers(all=True)}
    pytester.makepyfile("def test_it(sandbox): pass")
    try:
        result = pytester.runpytest_subprocess(
            "--opensandbox-url=docker", f"--opensandbox-image={images.sandbox}", f"--opensandbox-execd-image={name}"
        )

        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*SANDBOX_EXECD_START_FAILED*"])
        found = client.api.containers(all=True, filters={"ancestor": name})
        assert {item["Id"] for item in found} - before == set()
    finally:
        client.images.remove(name)


IMAGES_NOWHERE = """
    import pytest

    @pytest.mark.parametrize("n", range(3))
    def test_it(sandbox, n): pass
"""


@pytest.mark.parametrize("what", ["image", "execd-image"])
def test_an_image_that_cannot_be_pulled_is_explained_once(pytester, on_docker, what):
    pytester.makepyfile(IMAGES_NOWHERE)

    result = pytester.runpytest_subprocess(*on_docker, f"--opensandbox-{what}=no-such-registry.invalid/image:1")

    result.assert_outcomes(errors=3)
    text = result.stdout.str()
    assert text.count("Does `docker pull no-such-registry.invalid/image:1` work where the server runs?") == 1
    assert f"--opensandbox-{what}" in text
    assert "Traceback" not in text


def test_without_the_egress_image_only_its_tests_fail(pytester, on_docker):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(network="none")
        @pytest.mark.parametrize("n", range(2))
        def test_with_policy(sandbox, n): pass

        @pytest.mark.parametrize("n", range(3))
        def test_other(sandbox, n): assert sandbox.run("true").ok
    """)

    result = pytester.runpytest_subprocess(*on_docker, "--opensandbox-egress-image=no-such-registry.invalid/image:1")

    result.assert_outcomes(errors=2, passed=3)
    assert result.stdout.str().count("Does `docker pull no-such-registry.invalid/image:1` work") == 1
    result.stdout.fnmatch_lines(["*no-such-registry.invalid/image:1 could not be pulled before in this run*"])


def test_the_sweep_of_an_unknown_run_on_an_engine_fails(pytester, engine):
    result = pytester.run(
        sys.executable, "-m", "pytest_opensandbox", "sweep", "--run", "unknown", "--opensandbox-url=docker"
    )

    assert result.ret == 1
    result.stdout.fnmatch_lines(["opensandbox: run unknown: nothing of it was found at docker; *"])


def test_containers_of_a_run_in_pytests_cache_are_swept(pytester, client, images):
    """The run and its server were killed; only pytest's cache says that they were on an engine."""
    client.containers.create(images.sandbox, "true", labels={"pytest-opensandbox.run": "killed"})
    place = pytester.mkdir(".pytest_cache").joinpath("v/opensandbox/runs")
    place.mkdir(parents=True)
    (place / "killed").write_text('{"url": "docker"}')

    result = pytester.run(sys.executable, "-m", "pytest_opensandbox", "sweep", "--run", "killed")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: run killed: 1 deleted, 0 left"])
    assert client.api.containers(all=True, filters={"label": "pytest-opensandbox.run=killed"}) == []


@pytest.mark.parametrize("host", ["unix:///no/such.sock", "tcp://127.0.0.1:1"])
def test_a_missing_engine_is_named_with_the_remedy(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)

    with pytest.raises(
        ServerStartError, match=re.escape(f"no Docker engine answers at {host} (start Docker, or set DOCKER_HOST")
    ):
        start_docker(label="made-by=test")


def test_a_missing_engine_is_explained_once_for_all_workers(pytester, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    pytester.makepyfile(IMAGES_NOWHERE)

    result = pytester.runpytest_subprocess("--opensandbox-url=docker", "-n2")

    result.assert_outcomes(errors=3)
    assert result.stdout.str().count("--opensandbox-url can be:") == 1
