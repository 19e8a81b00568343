# GNU General Public License v3.0+ (see COPYING)
"""Time as an argument: UTC, from the database where rules depend on it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Protocol

from ..errors import ApgmsError

MAX_SKEW_SECONDS = 60


class Clock(Protocol):
    """What the core asks of time."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class DatabaseClock:
    """The clock of the database server; one clock for all operators of a stack.

    :raises ApgmsError: ``clock.skew`` when this machine is more than 60 s away from it
    """

    def __init__(self, connection: Any, machine: Clock | None = None) -> None:
        self._connection = connection
        self._machine = machine or SystemClock()

    def now(self) -> datetime:
        row = self._connection.execute("SELECT clock_timestamp()").fetchone()
        now: datetime = row[0].astimezone(UTC)
        skew = abs((self._machine.now() - now).total_seconds())
        if skew > MAX_SKEW_SECONDS:
            raise ApgmsError(
                "clock.skew",
                "This machine's clock cannot be trusted",
                where="the clock of this machine and of the database server",
                why=f"they differ by {skew:.0f} s; at most {MAX_SKEW_SECONDS} s is accepted",
                mend="timedatectl set-ntp true  # on the machine that is wrong",
            )
        return now

    def sleep(self, seconds: float) -> None:
        self._machine.sleep(seconds)


def iso_utc(moment: datetime) -> str:
    """Return ISO 8601 in UTC with milliseconds and Z, the form of every stored time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """Return the time that :func:`iso_utc` wrote.

    :raises ValueError: where ``text`` is not ISO 8601 with a UTC offset
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return moment.astimezone(UTC)
