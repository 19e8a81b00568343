# GNU General Public License v3.0+ (see COPYING)
"""When to try again: at the gateway's own pace, else ever slower; never past a deadline."""

from __future__ import annotations

from datetime import datetime, timedelta

SHORTEST_SECONDS = 0.1
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
RETRIED_STATUS = frozenset({408, 425, 429})


def retried(status: int) -> bool:
    """Return whether a request with this HTTP status may be tried again: 408, 425, 429, 5xx."""
    return status in RETRIED_STATUS or 500 <= status <= 599


def pause(
    tries: int, asked_seconds: float | None, now: datetime, deadline: datetime
) -> float | None:
    """Return the seconds to wait before the next try; None where the deadline comes first.

    :param tries: how many tries there were, from 1
    :param asked_seconds: what the gateway asked for, as its adapter read and clamped it
    """
    doubled = FIRST_SECONDS * 2 ** min(tries - 1, 16)
    seconds = min(doubled, LONGEST_SECONDS) if asked_seconds is None else asked_seconds
    seconds = max(seconds, SHORTEST_SECONDS)
    return seconds if now + timedelta(seconds=seconds) < deadline else None
