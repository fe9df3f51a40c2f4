"""A suite whose tests use a setup, and the summary that a run of it shows."""

SETUP = "mkdir -p /workspace && date +%s%N >/workspace/made"
"""Writes a file with a different content each time."""

SUITE = f"""
    import pytest

    pytestmark = pytest.mark.sandbox(setup={SETUP!r})

    @pytest.mark.parametrize("n", range(4))
    def test_it(sandbox, n):
        with open("seen", "a") as file:
            file.write(sandbox.get("/workspace/made").decode())
        assert sandbox.run("echo $OPENSANDBOX_ID").stdout.strip() == sandbox.id
        sandbox.run("test ! -e /workspace/mine && touch /workspace/mine", check=True)
"""


def summary(*, made, has_snapshots, restored, builds=1):
    """Return the two lines of a run's summary, as patterns.

    Args:
        made: how many setups were kept as snapshots.
        has_snapshots: whether the server has snapshots.
        restored: how many sandboxes the tests got.
        builds: how many sandboxes were created to run setups in.
    """
    created = restored + builds if has_snapshots else restored
    line = f"opensandbox: {created} created, {created} deleted, 0 swept, 0 left"
    sandboxes = "1 sandbox" if restored == 1 else f"{restored} sandboxes"
    if has_snapshots:
        return [line, f"setup: {made} prepared and kept in * s, {sandboxes} restored"]
    return [
        line,
        f"setup: run anew in {sandboxes}, * s in all, for want of snapshots: * (501 SNAPSHOT::NOT_IMPLEMENTED)",
    ]
