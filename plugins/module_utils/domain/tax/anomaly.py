# GNU General Public License v3.0+ (see COPYING)
"""The anomaly rule of APGMS: a measure strictly above its threshold blocks the period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURES = ("variance_ratio", "dup_rate", "gap_minutes", "delta_vs_baseline")
_ABSOLUTE = frozenset({"delta_vs_baseline"})


def anomalies(vector: Mapping[str, Any], thresholds: Mapping[str, Any]) -> list[str]:
    """Return the measures that block, each with its value and threshold.

    ``delta_vs_baseline`` counts by its absolute value. A measure that is absent or not a number
    blocks too: what is not known cannot be called normal.
    """
    return [
        f"{measure} {_shown(vector, measure)} against threshold {_shown(thresholds, measure)}"
        for measure in MEASURES
        if not _within(measure, vector.get(measure), thresholds.get(measure))
    ]


def _within(measure: str, value: Any, threshold: Any) -> bool:
    if not is_number(value) or not is_number(threshold):
        return False
    return bool((abs(value) if measure in _ABSOLUTE else value) <= threshold)


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number (a boolean is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(values: Mapping[str, Any], measure: str) -> str:
    return str(values[measure]) if measure in values else "unknown"
