"""A server by its URL: the spellings, how the run reaches it, and the progress lines when it is slow."""

import socket
import ssl

import pytest
import trustme

from tests.scripted_servers import OneSandboxServer, Pause, Reply, as_json, serving

pytestmark = pytest.mark.thorough

SUITE = """
    def test_it(sandbox):
        sandbox.put("x" * 100_000, "/workspace/file")
        assert sandbox.run("wc -c < /workspace/file").stdout == "100000\\n"
        assert sandbox.get("/workspace/file") == b"x" * 100_000
"""
EMPTY = "def test_it(sandbox): pass"
# Shows the first progress line at once instead of after five seconds.
IMPATIENT = "from pytest_opensandbox.sandbox.progress import Progress; Progress.notice_seconds = 0.2"
SLOW_CREATE = Reply(202, [Pause(1.5), b'{"id": "s1", "status": {"state": "Running"}}'])


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("domain", "protocol"),
    [
        pytest.param("{url}", "", id="a URL"),
        pytest.param("{url}/v1", "", id="a URL with v1"),
        pytest.param("127.0.0.1:{port}", "", id="host and port"),
        pytest.param("localhost:{port}", "http", id="localhost and a protocol"),
    ],
)
def test_the_variables_of_the_official_sdk_name_a_server(pytester, server, monkeypatch, domain, protocol):
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", domain.format(url=server.url, port=port))
    monkeypatch.setenv("OPEN_SANDBOX_PROTOCOL", protocol)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: http://*(OPEN_SANDBOX_DOMAIN)*isolation=the server's*"])
    assert server.sandboxes() == []


@pytest.mark.parametrize("workers", [pytest.param((), id="one process"), pytest.param(("-n2",), id="two workers")])
def test_all_goes_through_the_servers_proxy_where_that_is_asked_for(pytester, server, workers):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--opensandbox-server-proxy", *workers)

    result.assert_outcomes(passed=1)
    assert server.sandboxes() == []


def test_this_machine_is_reached_without_the_environments_proxy(pytester, server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    pytester.makepyfile(SUITE)

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_an_unreachable_sandbox_is_named_with_three_remedies(pytester):
    pytester.makepyfile(EMPTY)
    address = f"127.0.0.1:{unused_port()}"
    server = OneSandboxServer(endpoint=[as_json({"endpoint": address})])
    with serving(server=server):
        result = pytester.runpytest_subprocess(
            f"--opensandbox-url={server.url}", "--opensandbox-ready-timeout=0.5", "--opensandbox-image=a"
        )

    result.assert_outcomes(errors=1)
    (line,) = [line for line in result.outlines if "was not ready after" in line]
    assert f"connection refused (GET http://{address}/ping)" in line
    assert "use --opensandbox-server-proxy, or set eip or docker.host_ip in the server's configuration" in line
    assert server.calls[-3:] == ["delete", "list", "list"]


@pytest.mark.parametrize(
    "arguments",
    [pytest.param((), id="one process"), pytest.param(("-s",), id="no capture"), pytest.param(("-n1",), id="a worker")],
)
def test_a_create_that_takes_long_is_explained_once_on_the_terminal(pytester, arguments):
    pytester.makeconftest(IMPATIENT)
    pytester.makepyfile(test_slow="def test_it(sandbox): pass")
    with serving(server=OneSandboxServer(create=[SLOW_CREATE])) as server:
        result = pytester.runpytest_subprocess(
            f"--opensandbox-url={server.url}", "--opensandbox-image=python:3.12", *arguments
        )

    result.assert_outcomes(passed=1)
    (shown,) = [line for line in result.stderr.lines if line.startswith("opensandbox: ")]
    where, _, what = shown.partition("::test_it: ")
    assert where == "opensandbox: test_slow.py"
    waited = "(0.2 s so far)"
    assert what == f"creating a sandbox from python:3.12; where the server lacks the image, it is being pulled {waited}"


def test_each_phase_of_a_wait_is_explained(pytester):
    pytester.makeconftest(IMPATIENT)
    pytester.makepyfile(EMPTY)
    code = "KUBERNETES::POOL_CAPACITY_EXHAUSTED"
    refused = as_json({"code": code}, 429, Retry_After="1")
    made = as_json({"id": "s1", "status": {"state": "Pending"}}, 202)
    pending = [as_json({"id": "s1", "status": {"state": "Pending"}})] * 8
    with serving(server=OneSandboxServer(create=[refused, made], state=pending)) as server:
        result = pytester.runpytest_subprocess(f"--opensandbox-url={server.url}", "--opensandbox-image=a")

    result.assert_outcomes(passed=1)
    shown = [line.partition("test_it: ")[2] for line in result.stderr.lines if line.startswith("opensandbox: ")]
    assert shown == [
        f"creating a sandbox from a; the server refuses for now (429 {code}), asking again (0.2 s so far)",
        "the sandbox from a is created, waiting up to 60 s for its agent (0.2 s so far)",
    ]


def test_a_sandbox_that_comes_soon_needs_no_explanation(pytester, server):
    pytester.makepyfile(EMPTY)

    result = pytester.runpytest_subprocess()

    assert "opensandbox" not in result.stderr.str()


def test_progress_of_a_worker_is_shown_once_and_is_no_error(pytester):
    pytester.makeconftest(IMPATIENT)
    pytester.makepyfile(test_slow="def test_it(sandbox): pass")
    with serving(server=OneSandboxServer(create=[SLOW_CREATE])) as server:
        result = pytester.runpytest_subprocess(
            f"--opensandbox-url={server.url}", "--opensandbox-image=a", "-n1", "-W", "error"
        )

    result.assert_outcomes(passed=1, warnings=0)
    shown = result.stdout.str() + result.stderr.str()
    assert shown.count("creating a sandbox from a; ") == 1


def test_a_file_with_certificates_in_an_ini_file_lies_beside_it(pytester, monkeypatch):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(pytester.path / "ca.pem"))
    below = pytester.mkdir("below")
    (below / "test_it.py").write_text(EMPTY)
    with serving(server=OneSandboxServer(tls=context)) as server:
        pytester.makeini(f"[pytest]\nopensandbox_ca_bundle = ca.pem\nopensandbox_url = {server.url}")
        monkeypatch.chdir(below)
        result = pytester.runpytest_subprocess("--opensandbox-image=a")

    result.assert_outcomes(passed=1)


def test_a_pool_is_named_by_an_option_or_a_marker(pytester):
    pytester.makepyfile("""
        import pytest

        def test_option(sandbox): pass

        @pytest.mark.sandbox(pool="other")
        def test_marker(sandbox): pass

        def test_factory(sandbox_factory):
            with sandbox_factory(pool="third") as sandbox:
                assert sandbox.image == "pool third"

        @pytest.mark.sandbox(image="python:3.12")
        def test_image(sandbox): pass
    """)
    with serving(server=OneSandboxServer()) as server:
        result = pytester.runpytest_subprocess(f"--opensandbox-url={server.url}", "--opensandbox-pool=fast")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["opensandbox: *pool=fast (flag)*"])
    asked = [seen.json for seen in server.seen if server.route(seen) == "create"]
    assert [body.get("extensions", {}).get("poolRef") for body in asked] == ["fast", "other", "third", None]
    assert [body.get("image") for body in asked] == [None, None, None, {"uri": "python:3.12"}]
