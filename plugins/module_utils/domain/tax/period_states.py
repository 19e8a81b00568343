# GNU General Public License v3.0+ (see COPYING)
"""The states of an APGMS period, and how closing one walks through them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from .anomaly import anomalies


class PeriodState(StrEnum):
    """A state as ``periods.state`` holds it, up to the token; a release comes after."""

    OPEN = "OPEN"
    CLOSING = "CLOSING"
    READY_RPT = "READY_RPT"
    BLOCKED_DISCREPANCY = "BLOCKED_DISCREPANCY"
    BLOCKED_ANOMALY = "BLOCKED_ANOMALY"


def close_period(
    final_liability_cents: int,
    credited_to_owa_cents: int,
    anomaly_vector: Mapping[str, Any],
    thresholds: Mapping[str, Any],
) -> list[PeriodState]:
    """Return the states that closing an open period walks through, ending in its verdict.

    ``thresholds`` holds ``epsilon_cents`` beside the thresholds of the anomaly measures.
    """
    gap = abs(final_liability_cents - credited_to_owa_cents)
    if gap > thresholds["epsilon_cents"]:
        verdict = PeriodState.BLOCKED_DISCREPANCY
    elif anomalies(anomaly_vector, thresholds):
        verdict = PeriodState.BLOCKED_ANOMALY
    else:
        verdict = PeriodState.READY_RPT
    return [PeriodState.OPEN, PeriodState.CLOSING, verdict]
