"""A server inside a sandbox, called from the test through the sandbox's endpoint."""

import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def fetch(endpoint, path):
    """Retry until the server listens; before that the endpoint answers 502."""
    for _ in range(100):
        try:
            with urlopen(Request(endpoint.url + path, headers=dict(endpoint.headers))) as answer:
                return answer.read().decode()
        except HTTPError as error:
            if error.code != 502:
                raise
            time.sleep(0.05)
    raise AssertionError(f"nothing listens at {endpoint.url}")


def test_a_page_is_served(sandbox):
    sandbox.put("<h1>hello</h1>", "/workspace/index.html")
    # On all addresses: the proxy of a server on Docker does not reach a service on loopback.
    serve = "python3 -m http.server 8000 --bind 0.0.0.0 --directory /workspace"
    # Like subprocess.run, run waits for every process that has its output open.
    sandbox.run(f"setsid {serve} >/dev/null 2>&1 &", check=True)

    assert fetch(sandbox.endpoint(8000), "/index.html") == "<h1>hello</h1>"
