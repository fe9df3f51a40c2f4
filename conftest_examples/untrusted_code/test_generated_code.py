"""Generated code that was not reviewed: it may not end, write files, and look for secrets."""

import os

import pytest

import pytest_opensandbox


def run_python(sandbox, code, **options):
    return sandbox.run(["python3", "-c", code], **options)


def test_its_output_is_checked(sandbox):
    result = run_python(sandbox, "print(sorted([3, 1, 2]))", check=True)

    assert result.stdout == "[1, 2, 3]\n"


def test_an_endless_loop_ends(sandbox):
    with pytest.raises(pytest_opensandbox.CommandTimeoutError) as caught:
        run_python(sandbox, "print('working', flush=True)\nwhile True: pass", timeout=1)

    assert caught.value.stdout == "working\n"


@pytest.mark.sandbox(network="none")
def test_it_reaches_no_network(sandbox):
    result = run_python(sandbox, "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)")

    assert not result.ok


def test_it_finds_no_secret_of_the_host(sandbox, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", "s3cret")

    assert "s3cret" not in sandbox.run("env; cat /proc/*/environ 2>/dev/null").stdout
    assert os.environ["DEPLOY_TOKEN"] == "s3cret"
