# GNU General Public License v3.0+ (see COPYING)
"""Release windows: the calendar of a policy, and when one of its windows is open.

``docs/windows.md`` describes the policy's member ``windows``. A window is named by its opening time
in the policy's zone, ``YYYYMMDDHHMM``, and lasts a number of real minutes, so that a change to or
from daylight saving neither shortens nor doubles it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...errors import ApgmsError
from ..formats.shape import TEXT, require_shape

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONGEST_MINUTES = 7 * 24 * 60
LOOK_AHEAD_DAYS = 400

_WINDOW_ID = re.compile(r"20[0-9]{10}")


@dataclass(frozen=True)
class Window:
    """A span in which a stack may send; times in UTC, the end excluded."""

    id: str
    name: str
    """The calendar entry or the override statement it comes from."""
    opens_at: datetime
    closes_at: datetime


@dataclass(frozen=True)
class Entry:
    """A calendar entry: on one date, or on each of some weekdays (0 is Monday)."""

    name: str
    opens: time
    minutes: int
    day: date | None
    weekdays: frozenset[int]

    def falls_on(self, day: date) -> bool:
        """Tell whether the entry has a window that opens on ``day``."""
        return day == self.day or day.weekday() in self.weekdays


@dataclass(frozen=True)
class Blackout:
    """Dates on which nothing is sent, both ends included."""

    first: date
    last: date
    reason: str


@dataclass(frozen=True)
class Calendar:
    """The release windows of a policy."""

    zone: ZoneInfo
    entries: tuple[Entry, ...]
    blackouts: tuple[Blackout, ...]

    def window(self, window_id: str) -> Window:
        """Return the window that opens at ``window_id``.

        :raises ApgmsError: ``window.malformed``, ``window.blackout``, ``window.no_such_time``,
            ``window.not_in_calendar``
        """
        try:
            opens = parse_window_id(window_id)
        except ValueError as error:
            raise _refused("malformed", window_id, str(error)) from None
        for entry in self.entries:
            if entry.opens == opens.time() and entry.falls_on(opens.date()):
                return self._window(window_id, opens, entry)
        raise _refused(
            "not_in_calendar", window_id, "no entry of the policy's calendar opens at this time"
        )

    def upcoming(self, now: datetime) -> Iterator[Window]:
        """Yield the windows that are not over at ``now``, by day, for about a year."""
        today = now.astimezone(self.zone).date()
        for ahead in range(-LONGEST_MINUTES // 1440, LOOK_AHEAD_DAYS):
            for window in self._opening_on(today + timedelta(days=ahead)):
                if window.closes_at > now:
                    yield window

    def local(self, moment: datetime) -> str:
        """Return a time as the operator's clock shows it, with the zone's abbreviation."""
        return f"{moment.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"

    def _opening_on(self, day: date) -> list[Window]:
        windows: dict[str, Window] = {}
        for entry in self.entries:
            opens = datetime.combine(day, entry.opens)
            held = self._blackout(day) is None and _instant(opens, self.zone) is not None
            if entry.falls_on(day) and held:
                window_id = f"{opens:%Y%m%d%H%M}"
                windows.setdefault(window_id, self._window(window_id, opens, entry))
        return sorted(windows.values(), key=lambda window: window.opens_at)

    def _window(self, window_id: str, opens: datetime, entry: Entry) -> Window:
        blackout = self._blackout(opens.date())
        if blackout:
            why = f"{opens.date()} is blacked out ({blackout.first} to {blackout.last})"
            raise _refused("blackout", window_id, f"{why}: {blackout.reason}")
        opens_at = _instant(opens, self.zone)
        if opens_at is None:
            raise _refused(
                "no_such_time",
                window_id,
                f"clocks in {self.zone.key} are put forward past {opens:%H:%M} on {opens.date()},"
                " so this window is not held",
            )
        closes_at = opens_at + timedelta(minutes=entry.minutes)
        return Window(window_id, entry.name, opens_at, self._cut(opens.date(), closes_at))

    def _blackout(self, day: date) -> Blackout | None:
        return next((b for b in self.blackouts if b.first <= day <= b.last), None)

    def _cut(self, day: date, closes_at: datetime) -> datetime:
        """End a window where the first blackout after its opening day begins."""
        begins = [
            datetime.combine(blackout.first, time(), self.zone).astimezone(UTC)
            for blackout in self.blackouts
            if blackout.first > day
        ]
        return min([closes_at, *begins])


def parse_window_id(text: str) -> datetime:
    """Return the local time that a release window id names, without a zone.

    :raises ValueError: where ``text`` is not 12 digits, no date and time, or not of this century
    """
    if not _WINDOW_ID.fullmatch(text):
        raise ValueError(f"{text!r} is not 12 digits, YYYYMMDDHHMM, of this century")
    day, hour = f"{text[:4]}-{text[4:6]}-{text[6:8]}", f"{text[8:10]}:{text[10:]}"
    try:
        return datetime.fromisoformat(f"{day} {hour}")
    except ValueError as error:
        raise ValueError(f"{text} is no date and time: {error}") from None


def parse_calendar(member: Any) -> Calendar:
    """Return the calendar in the policy member ``windows``.

    :raises ValueError: names the element that is wrong and what it holds
    """
    require_shape(member, _SHAPE, "windows")
    zone = _zone(member["zone"])
    entries = tuple(_entry(element) for element in member["calendar"])
    for entry in entries:
        if entry.day and not _instant(datetime.combine(entry.day, entry.opens), zone):
            raise ValueError(f"windows: {zone.key} has no {entry.opens:%H:%M} on {entry.day}")
    return Calendar(zone, entries, tuple(_blackout(element) for element in member["blackouts"]))


_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
_ENTRY = {"name": TEXT, "opens": re.compile(r"[0-9]{2}:[0-9]{2}"), "minutes": int}
_SHAPE: dict[str, Any] = {
    "zone": TEXT,
    "calendar": [
        (
            {**_ENTRY, "date": _DATE},
            {**_ENTRY, "weekdays": [re.compile("|".join(WEEKDAYS))]},
        )
    ],
    "blackouts": [{"first": _DATE, "last": _DATE, "reason": TEXT}],
}


def _entry(element: dict[str, Any]) -> Entry:
    if not 1 <= element["minutes"] <= LONGEST_MINUTES:
        raise ValueError(f"windows: minutes is {element['minutes']}, not 1 to {LONGEST_MINUTES}")
    if element.get("weekdays") == []:
        raise ValueError(f"windows: weekdays of {element['name']} is empty")
    return Entry(
        name=element["name"],
        opens=time.fromisoformat(element["opens"]),
        minutes=element["minutes"],
        day=date.fromisoformat(element["date"]) if "date" in element else None,
        weekdays=frozenset(map(WEEKDAYS.index, element.get("weekdays", ()))),
    )


def _blackout(element: dict[str, str]) -> Blackout:
    first, last = date.fromisoformat(element["first"]), date.fromisoformat(element["last"])
    if last < first:
        raise ValueError(f"windows: the blackout of {first} ends before it begins, on {last}")
    return Blackout(first, last, element["reason"])


def _zone(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"windows: zone {key!r} is not in this machine's time zone database"
        ) from None


def _instant(local: datetime, zone: ZoneInfo) -> datetime | None:
    """Return a local time in UTC: of two, the first; None where clocks skip it."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return moment if moment.astimezone(zone).replace(tzinfo=None) == local else None


def _refused(rule: str, window_id: str, why: str) -> ApgmsError:
    return ApgmsError(
        f"window.{rule}",
        f"There is no release window {window_id}",
        where="RELEASE_WINDOW",
        why=why,
        mend="export RELEASE_WINDOW=YYYYMMDDHHMM, the opening time of a window of the policy, in"
        " the policy's time zone",
    )
