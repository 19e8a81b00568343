# GNU General Public License v3.0+ (see COPYING)
"""The operations log: one canonical JSON line an action, each naming the line before it.

``previous`` is the SHA-256 of the previous line's bytes without its newline; "" for the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .canonical import canonical, parse_canonical, sha256_hex


@dataclass(frozen=True)
class Head:
    """How long a log is, and the SHA-256 of its last line."""

    entries: int
    sha256: str


class BrokenLog(ValueError):
    """A line does not follow from the one before it."""

    def __init__(self, line_number: int, why: str) -> None:
        super().__init__(f"line {line_number}: {why}")
        self.line_number = line_number


def entry_line(previous_line: bytes | None, action: dict[str, Any]) -> bytes:
    """Return the line, without newline, that records ``action`` after ``previous_line``."""
    previous = "" if previous_line is None else sha256_hex(previous_line)
    return canonical({**action, "previous": previous})


def verify(lines: Iterable[bytes]) -> Head:
    """Return the head of a log whose every line follows from the one before it.

    :param lines: the lines without their newlines
    :raises BrokenLog: at the first line that does not
    """
    entries, head = 0, ""
    for entries, line in enumerate(lines, start=1):
        try:
            entry = parse_canonical(line)
        except ValueError as error:
            raise BrokenLog(entries, str(error)) from None
        if not isinstance(entry, dict) or entry.get("previous") != head:
            raise BrokenLog(entries, "its 'previous' is not the SHA-256 of the line before it")
        head = sha256_hex(line)
    return Head(entries, head)
