# GNU General Public License v3.0+ (see COPYING)
"""The payload of a reconciliation pass token: its JSON, and what an issuer may have signed.

Issuers sign the compact JSON of the payload with its keys in issue order, some with the keys
sorted. A ``jsonb`` column keeps neither, so the message is put together again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ..formats.canonical import unique_pairs

ISSUE_ORDER = (
    "entity_id", "period_id", "tax_type", "amount_cents", "merkle_root", "running_balance_hash",
    "anomaly_vector", "thresholds", "rail_id", "reference", "expiry_ts", "nonce",
    "rates_version", "kid",
)  # fmt: skip
REQUIRED = ISSUE_ORDER[:12]
_MEASURE_ORDER = (
    "epsilon_cents", "variance_ratio", "dup_rate", "gap_minutes", "delta_vs_baseline",
)  # fmt: skip


def parse_payload(text: str) -> dict[str, Any]:
    """Return the payload in ``text``.

    :raises ValueError: where it is not a JSON object, repeats a key, or holds NaN or infinity
    """
    payload = json.loads(text, object_pairs_hook=unique_pairs, parse_constant=_refuse_constant)
    if not isinstance(payload, dict):
        raise ValueError("it is not an object")
    return payload


def candidate_messages(payload: Mapping[str, Any]) -> list[str]:
    """Return what an issuer may have signed, likeliest first: issue order, then sorted.

    Where the inner objects came from ``jsonb`` themselves they stand as stored, otherwise in the
    order of the issuer's code.
    """
    stored = _ordered(payload, ISSUE_ORDER)
    written = {
        name: _ordered(value, _MEASURE_ORDER) if isinstance(value, dict) else value
        for name, value in stored.items()
    }
    messages = [compact(stored), compact(written), compact(_sorted(payload))]
    return list(dict.fromkeys(messages))


def compact(value: Any) -> str:
    """Return JSON as ``JSON.stringify`` of ECMAScript writes it, members in their order."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{compact(value[key])}" for key in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """ECMAScript Number::toString: decimal from 1e-6 up to 1e21, exponents without padding."""
    if value == 0:
        return "0"
    if 1e-6 <= abs(value) < 1e21:
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    digits, _e, exponent = repr(value).partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent):+d}"


def _ordered(value: Mapping[str, Any], order: tuple[str, ...]) -> dict[str, Any]:
    known = {name: value[name] for name in order if name in value}
    return {**known, **value}


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(element) for element in value]
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
