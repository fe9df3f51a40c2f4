"""Counting: what a sweep changes, and the sum over processes."""

import json

from pytest_opensandbox.sandbox.tracking import SetupTally, Tally, total

SETUPS = SetupTally(
    built=1, seconds=2.5, restored=3, repeated=4, repeated_seconds=0.5, reasons=("a",), has_snapshots=True, left=("p",)
)


def test_nothing_counted_is_nothing_used():
    assert not Tally().used
    assert Tally(created=1).used
    assert Tally(swept=("a",)).used


def test_a_tally_travels_as_json():
    tally = Tally(created=3, deleted=1, swept=("a",), left=("b",), setups=SETUPS)

    assert Tally.from_wire(json.loads(json.dumps(tally.to_wire()))) == tally


def test_the_sum_adds_up():
    parts = [Tally(created=2, deleted=1, left=("a",)), Tally(created=1, swept=("b",)), Tally()]

    assert total(parts) == Tally(created=3, deleted=1, swept=("b",), left=("a",))
    assert total([]) == Tally()


def test_what_a_sweep_deletes_is_swept_and_no_longer_left():
    before = Tally(created=2, deleted=1, left=("a",))

    after = before.after_sweep(deleted=["a"], left=[], complete=True)

    assert after == Tally(created=2, deleted=1, swept=("a",), left=())


def test_a_sandbox_that_only_a_sweep_found_counts_as_created():
    after = Tally(created=1, deleted=1).after_sweep(deleted=["ghost"], left=["stuck"], complete=True)

    assert after == Tally(created=3, deleted=1, swept=("ghost",), left=("stuck",))


def test_what_a_complete_sweep_does_not_see_is_gone():
    after = Tally(created=1, left=("a",)).after_sweep(deleted=[], left=[], complete=True)

    assert after == Tally(created=1, deleted=1)


def test_what_an_incomplete_sweep_does_not_see_is_still_left():
    after = Tally(created=2, left=("a", "b")).after_sweep(deleted=["a"], left=["b"], complete=False)

    assert after == Tally(created=2, swept=("a",), left=("b",))


def test_every_sandbox_is_in_exactly_one_column():
    after = Tally(created=4, deleted=1, left=("a", "b", "c")).after_sweep(deleted=["a"], left=["b"], complete=True)

    assert after.created == after.deleted + len(after.swept) + len(after.left)


def test_setups_add_up_and_say_each_thing_once():
    other = SetupTally(built=1, seconds=1.5, reasons=("a", "b"), left=("q",))

    assert total([Tally(setups=SETUPS), Tally(), Tally(setups=other)]).setups == SetupTally(
        built=2,
        seconds=4.0,
        restored=3,
        repeated=4,
        repeated_seconds=0.5,
        reasons=("a", "b"),
        has_snapshots=True,
        left=("p", "q"),
    )


def test_a_sweep_of_sandboxes_changes_nothing_about_setups():
    tally = Tally(created=1, left=("a",), setups=SETUPS)

    assert tally.after_sweep(deleted=["a"], left=[], complete=True).setups == SETUPS
