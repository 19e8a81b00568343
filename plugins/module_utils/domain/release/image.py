# GNU General Public License v3.0+ (see COPYING)
"""The image of ``periods`` and ``rpt_tokens`` that a manifest binds.

One canonical JSON object a line, ``{"columns": {name: text or null}, "table": name}``; the values
are PostgreSQL's own text form, so that a row can be put back exactly as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TABLES = ("periods", "rpt_tokens")


class ImageRow(NamedTuple):
    """One row of an image: its table, and its columns in PostgreSQL's text form."""

    table: str
    columns: dict[str, str | None]

    def to_line(self) -> bytes:
        """Return the row's line, with its newline."""
        return flat_line({"columns": self.columns, "table": self.table})


def parse_image(lines: Iterable[bytes]) -> Iterator[ImageRow]:
    """Yield the rows of ``image.jsonl``.

    :raises ValueError: where a line is not one of an image
    """
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if not isinstance(row, dict) or row.keys() != {"columns", "table"}:
            raise ValueError(f"line {number} is not a row of an image")
        parsed = ImageRow(row["table"], row["columns"])
        if parsed.to_line() != line:
            raise ValueError(f"line {number} is not in canonical form")
        yield parsed


def flat_line(value: object) -> bytes:
    """Return canonical JSON and a newline for objects of text and null with ASCII member names.

    The same bytes as :func:`canonical`, several times faster.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode() + b"\n"
