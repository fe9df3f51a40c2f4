"""A server inside a sandbox, called from the test through the sandbox's endpoint."""

import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def fetch(endpoint, path):
    """Ask until the server listens: the endpoint answers 502 before that."""
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
    # On all addresses: what listens on loopback is not reached through the own proxy of a server on Docker.
    serve = "python3 -m http.server 8000 --bind 0.0.0.0 --directory /workspace"
    # run waits for all that holds its output, as subprocess.run does.
    sandbox.run(f"setsid {serve} >/dev/null 2>&1 &", check=True)

    assert fetch(sandbox.endpoint(8000), "/index.html") == "<h1>hello</h1>"
