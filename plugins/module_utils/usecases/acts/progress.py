# GNU General Public License v3.0+ (see COPYING)
"""Progress of long work: done, percent, rate and time left, at most one line a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

EVERY_SECONDS = 1.0


class Progress:
    """Says how far a piece of work is.

    :param say: takes one line for the operator
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._began = self._said = time.monotonic()

    def begin(self) -> None:
        """Start measuring a new piece of work."""
        self._began = self._said = time.monotonic()

    def done(self, what: str, done: int, total: int, unit: str) -> None:
        """Say ``what: done of total unit``, unless a line was said within the last second."""
        now = time.monotonic()
        if now - self._said < EVERY_SECONDS:
            return
        self._said = now
        self.say(progress_line(what, done, total, unit, now - self._began))


def progress_line(what: str, done: int, total: int, unit: str, seconds: float) -> str:
    """Return one line of progress.

    :param seconds: since the work began
    """
    rate = done / seconds if seconds > 0 else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate else "time left unknown"
    percent = 100 * done // total if total else 100
    return f"{what}: {done:,} of {total:,} {unit} ({percent} %), {rate:,.0f} {unit}/s, {left}"


def say_into(path: str | None) -> Callable[[str], None]:
    """Return what appends each line to the file at ``path``; None: lines are dropped."""
    if path is None:
        return lambda line: None

    def say(line: str) -> None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    return say
