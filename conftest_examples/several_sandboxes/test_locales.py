"""One test in several sandboxes: each value is an image, or a mapping of arguments of the marker."""

import pytest


@pytest.mark.parametrize(
    "sandbox",
    [
        {"env": {"LC_ALL": "C"}},
        {"env": {"LC_ALL": "C.UTF-8"}},
        pytest.param({"env": {"LC_ALL": "C"}, "setup": "echo b > /srv/lines; echo a >> /srv/lines"}, id="prepared"),
    ],
    indirect=True,
)
def test_sorting_does_not_depend_on_the_locale(sandbox):
    sandbox.run("test -f /srv/lines || printf 'b\\na\\n' > /srv/lines", check=True)

    assert sandbox.run("sort /srv/lines").stdout == "a\nb\n"
