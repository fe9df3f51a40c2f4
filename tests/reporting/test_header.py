"""The header line of a run."""

from pytest_opensandbox.reporting.header import header_line
from pytest_opensandbox.settings.settings import read_settings


def header_for(*, flags=None, environ=None, inis=None):
    return header_line(read_settings(flags=flags or {}, environ=environ or {}, inis=inis or {}), "ab12cd34ef56")


def test_the_header_is_one_short_line_where_nothing_is_set():
    assert header_for() == (
        "opensandbox: embedded (default), image=host (default), isolation=bubblewrap namespaces, run=ab12cd34ef56"
    )


def test_the_header_says_where_there_is_no_filter_for_system_calls(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    assert "isolation=bubblewrap namespaces (no seccomp filter), run" in header_for()


def test_the_header_says_which_place_each_value_came_from():
    line = header_for(
        flags={"image": "a:1"},
        environ={"OPEN_SANDBOX_DOMAIN": "example.org:80"},
        inis={"lease": "90", "resources": ""},
    )

    assert line == (
        "opensandbox: http://example.org:80 (OPEN_SANDBOX_DOMAIN), image=a:1 (flag), resources=none (ini), "
        "lease=90 s (ini), isolation=the server's, run=ab12cd34ef56"
    )


def test_the_header_never_holds_the_key():
    assert "hunter2" not in header_for(
        environ={"OPEN_SANDBOX_API_KEY": "hunter2", "OPEN_SANDBOX_DOMAIN": "sandbox.example.org"}
    )


def test_a_header_cannot_steer_the_terminal():
    assert r"image=\x1b[31mred" in header_for(inis={"image": "\x1b[31mred"})


def test_the_header_shows_the_beginning_of_a_long_setup():
    line = header_for(inis={"setup": "echo one\necho " + "x" * 100})

    assert f"setup=echo one; echo {'x' * 44}… (ini)" in line
