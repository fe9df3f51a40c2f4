"""The API key and the secrets in endpoint addresses: no file, output or other request contains them."""

import base64
import os
import re
from pathlib import Path

import pytest

from pytest_opensandbox.settings.options import EMBEDDED

SUITE = """
    import logging, os, pathlib, pickle, warnings

    from pytest_opensandbox import Client
    from pytest_opensandbox.plugin.run import RUN

    pathlib.Path(os.environ["SHOWN"]).mkdir(exist_ok=True)

    def note(name, text):
        pathlib.Path(os.environ["SHOWN"], f"{name}-{os.getpid()}").write_text(text)

    def test_what_fails_with_everything_in_reach(sandbox, opensandbox_client, opensandbox_settings, request):
        settings, client, run = opensandbox_settings, opensandbox_client, request.config.stash[RUN]
        parts_of_client = list(vars(client).values())
        environment = sandbox.run("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null || true").stdout
        note("reprs", repr([settings, client, parts_of_client, sandbox, run, sandbox.history]))
        warnings.warn(UserWarning(repr(settings)))
        logging.getLogger("test").debug("settings: %s", settings)
        sandbox.run("env; false", check=True)

    def test_a_refusal(sandbox_factory):
        sandbox_factory("no/such:image")

    def test_a_server_that_repeats_what_it_got(opensandbox_client):
        opensandbox_client.get_sandbox("no such sandbox")

    def test_a_wrong_way(opensandbox_settings):
        with Client("http://127.0.0.1:9", opensandbox_settings.api_key) as lost:
            lost.list_sandboxes()

    def test_a_file_that_is_not_there(sandbox):
        sandbox.get("/no/such/file")

    def test_process_arguments():
        for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes()
            except OSError:
                continue
            note(f"arguments-{process.parent.name}", words.replace(b"\\0", b" ").decode(errors="replace"))

    def test_a_pickle(opensandbox_settings):
        note("pickle", repr(pickle.dumps(opensandbox_settings)))
"""


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(("-p", "no:xdist"), id="one process"),
        pytest.param(("-n2",), id="two workers"),
    ],
)
def test_a_run_that_shows_everything_never_shows_the_key(pytester, server, monkeypatch, way):
    monkeypatch.setenv("SHOWN", str(pytester.path / "shown"))
    monkeypatch.setenv("EXECNET_DEBUG", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    pytester.makepyfile(SUITE)
    verbose = ("-vvv", "-rA", "--showlocals", "--full-trace", "--tb=long", "--setup-show", "--debug=debug.log")
    logs = ("--log-level=DEBUG", "--log-file=run.log", "--log-cli-level=DEBUG", "--junitxml=junit.xml")

    result = pytester.runpytest_subprocess(*way, *verbose, *logs)

    assert result.parseoutcomes().get("failed", 0) >= 5
    written = {path: path.read_bytes() for path in pytester.path.rglob("*") if path.is_file()}
    written |= {Path("stdout"): result.stdout.str().encode(), Path("stderr"): result.stderr.str().encode()}
    assert {"junit.xml", "run.log", "debug.log"} <= {path.name for path in written}
    assert [str(path) for path, text in written.items() for form in forms(server.api_key) if form in text] == []


def test_the_key_is_not_in_reach_of_a_sandbox(pytester, server, monkeypatch):
    monkeypatch.setenv("EXPECTED", server.api_key)
    pytester.makepyfile("""
        import os

        def test_it(sandbox):
            key = os.environ["EXPECTED"]
            everything = "env; cat /proc/*/environ /proc/*/cmdline; grep -rs KEY /root /tmp /var /run /workspace; true"
            assert key not in sandbox.run(everything).stdout
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)


ENDPOINTS = """
    import logging, os, pathlib, warnings

    from pytest_opensandbox import OpenSandboxError

    def keep(endpoint):
        with open(os.environ["SECRETS"], "a") as file:
            file.writelines(f"{value}\\n" for value in endpoint.headers.values())
        return endpoint

    def test_what_fails_with_an_endpoint_in_reach(sandbox):
        endpoint = keep(sandbox.endpoint(8000))
        url = endpoint.url
        warnings.warn(UserWarning(repr([endpoint, vars(endpoint)])))
        logging.getLogger("test").debug("endpoint: %r", endpoint)
        assert endpoint is None

    def test_a_request_that_is_refused(sandbox, opensandbox_client):
        opensandbox_client.ping(keep(sandbox.endpoint(9)))

    def test_a_sandbox_that_is_gone(sandbox, opensandbox_client):
        agent = keep(opensandbox_client.discover_execd(sandbox.id))
        opensandbox_client.delete_sandbox(sandbox.id)
        try:
            opensandbox_client.ping(agent)
        except OpenSandboxError as error:
            logging.getLogger("test").exception("as expected: %s", error)
        sandbox.run("true")

    def test_a_copy_that_fails(sandbox):
        keep(sandbox.endpoint(44772))
        sandbox.get("/no/such/file")
"""


@pytest.fixture
def server_with_secrets(server, opensandbox_settings):
    """The server, with a secret in the endpoints that it returns."""
    if opensandbox_settings.url != EMBEDDED:
        pytest.skip("the endpoints of opensandbox-server on Docker hold no secret")
    return server


@pytest.mark.parametrize("proxy", ["yes", "no"], ids=["through the server", "directly"])
def test_a_run_that_shows_everything_never_shows_an_endpoint_s_secret(
    pytester, server_with_secrets, monkeypatch, proxy
):
    secrets = pytester.mkdir("secrets") / "secrets"
    monkeypatch.setenv("SECRETS", str(secrets))
    monkeypatch.setenv("OPEN_SANDBOX_USE_SERVER_PROXY", proxy)
    pytester.makepyfile(ENDPOINTS)
    verbose = ("-vvv", "-rA", "--showlocals", "--full-trace", "--tb=long", "--setup-show", "--debug=debug.log")
    logs = ("--log-level=DEBUG", "--log-file=run.log", "--log-cli-level=DEBUG", "--junitxml=junit.xml")

    result = pytester.runpytest_subprocess("-p", "no:xdist", *verbose, *logs)

    assert result.parseoutcomes().get("failed", 0) == 4
    given = set(secrets.read_text().split())
    secrets.unlink()
    written = {path: path.read_bytes() for path in pytester.path.rglob("*") if path.is_file()}
    written |= {Path("stdout"): result.stdout.str().encode(), Path("stderr"): result.stderr.str().encode()}
    assert len(given) >= 4
    assert [str(path) for path, text in written.items() for secret in given if secret.encode() in text] == []


def test_a_report_masks_the_address_in_another_library_s_error(pytester, server_with_secrets):
    pytester.makepyfile("""
        import requests

        def test_it(sandbox, opensandbox_client):
            endpoint = sandbox.endpoint(8000)
            url = f"{endpoint.url}/login"
            print(url)
            opensandbox_client.delete_sandbox(sandbox.id)
            requests.get(url, timeout=5)
    """)

    result = pytester.runpytest_subprocess("-rA", "--showlocals", "--log-level=DEBUG", "--junitxml=junit.xml")

    shown = result.stdout.str() + pytester.path.joinpath("junit.xml").read_text()
    assert "/***/proxy/8000/login" in shown
    assert re.findall(r"/[0-9a-f]{32}/", shown) == []


def forms(key):
    """Return the encodings of a key that a file or output may contain."""
    plain = key.encode()
    return [plain, base64.b64encode(plain), plain.hex().encode(), os.fsencode(repr(key))[1:-1]]
