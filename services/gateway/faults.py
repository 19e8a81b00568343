# GNU General Public License v3.0+ (see COPYING)
"""Misbehaviour on demand: which fault happens when, and what it does to a connection or answer.

docs/gateway.md lists the points and the faults.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

TRANSIENT = ("connect", "handshake", "identity", "submit", "lookup", "status", "receipt")
"""The points whose faults say nothing about what the authority decides."""
ANSWER_FAULTS = (
    "lose_response",
    "html",
    "nothing",
    "half_body",
    "slow_drip",
    "redirect",
    "retry_later",
)
STATUS_FAULTS = ("not_found", "still_running", "accepted_early", "foreign_acknowledgement")
FAULTS: dict[str, tuple[str, ...]] = {
    "connect": ("refuse",),
    "handshake": ("tls_failure",),
    "identity": ("reset", *ANSWER_FAULTS),
    "submit": (
        "reset",
        "reset_mid_upload",
        "already_running",
        "key_reused",
        "duplicate_without_pointer",
        "foreign_acknowledgement",
        *ANSWER_FAULTS,
    ),
    "lookup": ("reset", *STATUS_FAULTS, *ANSWER_FAULTS),
    "status": ("reset", *STATUS_FAULTS, *ANSWER_FAULTS),
    "receipt": (
        "reset",
        "not_found",
        "duplicate_receipt",
        "replayed_receipt",
        "foreign_receipt",
        "forged_receipt",
        "altered_receipt",
        *ANSWER_FAULTS,
    ),
    "decide": ("reject_rows", "reject_all"),
}
RETRY_AFTER = ("seconds", "date", "past", "huge", "garbage", "none")


@dataclass
class Fault:
    """One planned fault: it happens ``times`` times, after ``skip`` passes of its point."""

    point: str
    fault: str
    times: int = 1
    skip: int = 0
    taken: bool = True
    """For a fault of an answer: whether the request was carried out all the same."""
    status: int = 503
    """For ``retry_later``: 408, 425, 429 or any 5xx."""
    retry_after: str = "seconds"
    """For ``retry_later``: one of :data:`RETRY_AFTER`."""
    rows: int = 1
    """For ``reject_rows``: how many of the rows, from the first."""
    seconds: float = 2.0
    """For ``slow_drip``: how long the answer takes."""

    def __post_init__(self) -> None:
        if self.fault not in FAULTS.get(self.point, ()):
            raise ValueError(f"no fault {self.fault!r} at point {self.point!r}")
        if self.retry_after not in RETRY_AFTER:
            raise ValueError(f"retry_after is none of {', '.join(RETRY_AFTER)}")


@dataclass
class Plan:
    """The faults still to come, and those that happened."""

    faults: list[Fault] = field(default_factory=list)
    seed: int | None = None
    rate: float = 0.0
    points: tuple[str, ...] = TRANSIENT
    """Where the seed draws faults."""
    fired: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - replayable by intent

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Plan:
        """Return the plan in ``{"faults": [...]}`` or ``{"seed": N, "rate": 0..1, "points": []}``.

        :raises ValueError, TypeError: where it is not one
        """
        faults = [Fault(**entry) for entry in document.get("faults", [])]
        return cls(
            faults,
            document.get("seed"),
            float(document.get("rate", 0)),
            tuple(document.get("points", TRANSIENT)),
        )

    def replace(self, other: Plan) -> None:
        """Take over another plan; the record of what happened begins anew."""
        self.__dict__.update(other.__dict__)

    def take(self, point: str) -> Fault | None:
        """Return the fault that happens now at ``point``, and count it."""
        fault = self._planned(point) or self._drawn(point)
        if fault is not None:
            self.fired.append(f"{point}:{fault.fault}")
        return fault

    def rows_to_reject(self) -> int:
        """Return how many rows of the submission at hand the authority refuses."""
        fault = self.take("decide")
        if fault is None:
            return 0
        return fault.rows if fault.fault == "reject_rows" else 1 << 62

    def left(self) -> int:
        """Return how many planned faults are still to come."""
        return sum(fault.times for fault in self.faults)

    def _planned(self, point: str) -> Fault | None:
        for fault in self.faults:
            if fault.point == point and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def _drawn(self, point: str) -> Fault | None:
        if self.seed is None or point not in self.points:
            return None
        if self._random.random() >= self.rate:
            return None
        draw = self._random
        return Fault(
            point,
            draw.choice(FAULTS[point]),
            taken=draw.random() < 0.5,
            status=draw.choice((408, 425, 429, 500, 502, 503, 504)),
            retry_after=draw.choice(RETRY_AFTER),
            seconds=0.2,
        )
