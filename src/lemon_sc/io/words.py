"""What messages call the things that are joined to a table: nuclei of cells, or spots and bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Noun = Literal["nuclei", "units"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Names of one and of several of them, and of the rows of the table that they belong to."""

    one: str
    many: str
    row: str
    rows: str


WORDS: dict[Noun, Words] = {
    "nuclei": Words(one="nucleus", many="nuclei", row="cell", rows="cells"),
    "units": Words(one="unit", many="units", row="row", rows="rows"),
}
"""Units are spots, bins, and whatever else has a row of its own and is no cell."""
