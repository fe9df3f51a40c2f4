"""Figures that tests measure, and the tables of docs/reliability.md that show them.

A suite declares its table and records cells while it runs; nothing is kept unless the environment names a directory.
A test holds the rows on the page against those of the suite, so that the page cannot go stale unseen.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
DIRECTORY = "OPENSANDBOX_TEST_FIGURES"
"""Name of the environment variable with the directory where figures are kept."""

Cells = Mapping[tuple[str, str], str]
"""Texts by row and column."""


def distinct(values: Sequence[object]) -> str:
    """Return what was recorded, each value once."""
    return ", ".join(sorted(set(map(str, values))))


def total(values: Sequence[object]) -> str:
    """Return the sum of what was recorded."""
    return f"{sum(int(str(value)) for value in values):,}"


@dataclass(frozen=True)
class Table:
    """A table on the page, between the comments ``<!-- section:begin -->`` and ``<!-- section:end -->``."""

    section: str
    """What its comments are called."""
    corner: str
    """What its rows are, the heading of the first column."""
    rows: Sequence[str]
    """Names of the rows, in order."""
    columns: Sequence[str]
    """Headings of the other columns, in order."""
    combine: Callable[[Sequence[object]], str] = field(default=distinct)
    """Makes one text of the values that were recorded for a cell."""

    def record(self, row: str, column: str, value: object) -> None:
        """Keep a value for a cell; safe to call from several processes."""
        assert row in self.rows, f"{row!r} is no row of the table {self.section!r}"
        assert column in self.columns, f"{column!r} is no column of the table {self.section!r}"
        if directory := os.environ.get(DIRECTORY):
            kept = {"section": self.section, "row": row, "column": column, "value": value}
            Path(directory, f"{uuid.uuid4().hex}.json").write_text(json.dumps(kept))

    def recorded(self, directory: Path) -> Cells:
        """Return the cells that were recorded."""
        values = defaultdict(list)
        for path in sorted(directory.glob("*.json")):
            kept = json.loads(path.read_text())
            if kept["section"] == self.section:
                values[kept["row"], kept["column"]].append(kept["value"])
        return {cell: self.combine(found) for cell, found in values.items()}

    def on_page(self) -> Cells:
        """Return the cells that the page shows."""
        lines = [line for line in self._parts()[1].splitlines() if line.startswith("|")]
        split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        columns = split[0][1:] if split else []
        return {(row, column): text for row, *texts in split[2:] for column, text in zip(columns, texts, strict=True)}

    def write(self, cells: Cells) -> None:
        """Put cells on the page; other cells stay as they are: not every machine has every backend."""
        shown = {**self.on_page(), **cells}
        lines = [[row, *(shown.get((row, column), "–") for column in self.columns)] for row in self.rows]
        head = [self.corner, *self.columns]
        text = "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
        before, _, after = self._parts()
        PAGE.write_text(f"{before}\n{text}\n{after}")

    def _parts(self) -> tuple[str, str, str]:
        """Return the page up to the table, the table, and the rest."""
        begin, end = f"<!-- {self.section}:begin -->", f"<!-- {self.section}:end -->"
        before, _, rest = PAGE.read_text().partition(begin)
        table, _, after = rest.partition(end)
        return before + begin, table, end + after
