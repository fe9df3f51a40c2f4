"""Whatever goes wrong on the way: the right result, or an error of ours in time; nothing twice, nothing left."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from random import Random

import pytest

from pytest_opensandbox import OpenSandboxError
from tests.faults.bench import Bench
from tests.faults.faults import FAULTS
from tests.faults.operations import OPERATIONS
from tests.faults.proxy import Plan, well
from tests.figures import Table

pytestmark = pytest.mark.thorough

SLACK_SECONDS = 20.0
"""What a case may take beyond its budget on a machine that is busy with other things; a hang takes longer."""
REFUSED, ALL = "refused", "all"
ROUNDS = int(os.environ.get("OPENSANDBOX_TEST_ROUNDS", "1"))
"""How many seeds each pair of an operation and a fault gets."""

# The agent's events have no numbers: one that comes twice is what a program looks like that writes a line twice.
UNSEEN = {("run_command", "chunk twice")}
"""What no client can detect."""

CASES = [
    pytest.param(name, fault, f"{name}/{fault}/{number}", id=f"{name} - {fault} - {number}")
    for name in OPERATIONS
    for fault in (REFUSED, *FAULTS)
    for number in range(ROUNDS)
    if (name, fault) not in UNSEEN
]


def counted(outcomes: Sequence[object]) -> str:
    """Return how many outcomes were correct, and how many an error."""
    return f"{outcomes.count('correct')} / {outcomes.count('error')}"


TABLE = Table("faults", "operation", (*OPERATIONS, ALL), (REFUSED, *FAULTS, ALL), combine=counted)


@pytest.mark.parametrize(("name", "fault", "seed"), CASES)
def test_every_case_ends_well_or_in_an_error_of_ours(bench, name, fault, seed):
    outcome = Case(bench, name, fault, seed).run()

    for row in (name, ALL):
        for column in (fault, ALL):
            TABLE.record(row, column, outcome)


def test_the_page_tells_of_every_operation_and_every_fault():
    shown = TABLE.on_page()

    assert {row for row, _ in shown} == set(TABLE.rows)
    assert {column for _, column in shown} == set(TABLE.columns)


class Case:
    """One operation, one fault, one seed."""

    def __init__(self, bench: Bench, name: str, fault: str, seed: str) -> None:
        self.bench = bench
        self.operation = OPERATIONS[name]
        self.fault = fault
        self.rng = Random(seed)

    def run(self) -> str:
        """Return ``correct`` or ``error``; everything else fails."""
        self.bench.begin(self.rng.randrange(1 << 32), self.bench.scratch)
        steps = self.operation.steps(self.bench)
        next(steps)
        plan = self.spoil()
        started = time.monotonic()
        try:
            next(steps)
        except OpenSandboxError as exc:
            error = exc
        else:
            error = None
        elapsed = time.monotonic() - started
        assert plan.met or self.fault == REFUSED
        self.bench.proxy.heal()
        if error is None:
            assert next(steps, None) is None
        self.check_what_is_left(done=error is None)
        assert elapsed < self.operation.seconds + SLACK_SECONDS, f"{elapsed:.1f} s"
        return "correct" if error is None else "error"

    def spoil(self) -> Plan:
        """Let things go wrong from now on."""
        proxy = self.bench.proxy
        if self.fault == REFUSED:
            proxy.spoil(plan := Plan(well, times=0))
            proxy.refuse()
            return plan
        plan = FAULTS[self.fault](self.rng)
        plan.skip = self.rng.randrange(self.operation.requests)
        proxy.spoil(plan)
        return plan

    def check_what_is_left(self, *, done: bool) -> None:
        """Look for a second execution of a command, and for sandboxes without a handle."""
        if self.operation.counts:
            executions = self.bench.executions()
            assert executions == 1 if done else executions <= 1
        assert self.bench.swept() == []
