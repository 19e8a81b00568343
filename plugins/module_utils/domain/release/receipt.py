# GNU General Public License v3.0+ (see COPYING)
"""The receipt: the gateway's signed word on what became of a submission.

A receipt is a DSSE envelope whose payload is canonical JSON; ``docs/gateway.md`` describes each
member. It counts only where its key is pinned, its signature holds, and it binds to what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ApgmsError
from ..formats import dsse
from ..formats.canonical import parse_canonical
from ..formats.shape import LINE, require_shape

SCHEMA = "apgms.release/receipt/1"
PAYLOAD_TYPE = "application/vnd.apgms.receipt+json"
OUTCOMES = ("accepted", "partially_accepted", "rejected")
_BOUND = ("stack", "manifest_sha256", "submission_id", "idempotency_key", "body_sha256")
_CENTS = re.compile(r"0|-?[1-9][0-9]{0,17}")
_REASON = re.compile(r"[^\x00]+")


@dataclass(frozen=True)
class Rejection:
    """One RPT row that the authority did not accept, and why. The amount is in cents."""

    rpt_id: str
    tax_type: str
    period_id: str
    amount_cents: int
    code: str
    reason: str


@dataclass(frozen=True)
class Sent:
    """What a receipt must answer: the submission as this side knows it. The amount is in cents."""

    environments: tuple[str, ...]
    """The environments that the policy allows."""
    stack: str
    manifest_sha256: str
    submission_id: str
    idempotency_key: str
    body_sha256: str
    count: int
    amount_cents: int


@dataclass(frozen=True)
class Receipt:
    """A verified receipt. Amounts are cents, the time ISO 8601 in UTC."""

    receipt_id: str
    job_id: str
    environment: str
    stack: str
    manifest_sha256: str
    submission_id: str
    idempotency_key: str
    body_sha256: str
    outcome: str
    """One of :data:`OUTCOMES`."""
    accepted_count: int
    accepted_cents: int
    rejected_count: int
    rejected_cents: int
    rejections: tuple[Rejection, ...]
    issued_at: str
    key_id: str


def verify_receipt(data: bytes, keys: Mapping[str, str], sent: Sent, *, where: str) -> Receipt:
    """Return the receipt in ``data``, after its signature and its binding to ``sent`` hold.

    :param keys: the gateway keys that the policy pins: key id to public PEM
    :param where: the file or address of the receipt, for the message
    :raises ApgmsError: ``receipt.malformed``, ``receipt.unpinned_key``, ``receipt.bad_signature``,
        ``receipt.wrong_environment``, ``receipt.other_submission``, ``receipt.inconsistent``
    """
    receipt = read_receipt(data, keys, where=where)
    if receipt.environment not in sent.environments:
        raise _wrong_environment(where, receipt.environment, sent.environments)
    _require_binding(receipt, sent, where)
    if (receipt.accepted_count + receipt.rejected_count) != sent.count or (
        receipt.accepted_cents + receipt.rejected_cents
    ) != sent.amount_cents:
        raise _inconsistent(
            where, f"its rows and amounts do not add up to {sent.count} and {sent.amount_cents}"
        )
    return receipt


def read_receipt(data: bytes, keys: Mapping[str, str], *, where: str) -> Receipt:
    """Return the receipt in ``data``, after its signature holds and its own figures agree.

    :raises ApgmsError: ``receipt.malformed``, ``receipt.unpinned_key``, ``receipt.bad_signature``,
        ``receipt.inconsistent``
    """
    opened = dsse.open_envelope(data, PAYLOAD_TYPE, keys, what="receipt", where=where)
    try:
        receipt = _read(parse_canonical(opened.payload), opened.key_id)
    except ValueError as error:
        raise _malformed(where, str(error)) from None
    _require_consistent(receipt, where)
    return receipt


_REJECTION: dict[str, Any] = {
    **dict.fromkeys(("rpt_id", "tax_type", "period_id", "code"), LINE),
    "reason": _REASON,
    "amount_cents": _CENTS,
}
_SHAPE: dict[str, Any] = {
    "schema": re.compile(re.escape(SCHEMA)),
    **dict.fromkeys(("receipt_id", "job_id", "environment", "issued_at", *_BOUND), LINE),
    "outcome": re.compile("|".join(OUTCOMES)),
    **dict.fromkeys(("accepted_count", "rejected_count"), int),
    **dict.fromkeys(("accepted_cents", "rejected_cents"), _CENTS),
    "rejections": [_REJECTION],
}


def _read(document: Any, key_id: str) -> Receipt:
    require_shape(document, _SHAPE, "the receipt")
    if document["accepted_count"] < 0 or document["rejected_count"] < 0:
        raise ValueError("the receipt: a count is negative")
    del document["schema"]
    amounts = {name: int(document[name]) for name in ("accepted_cents", "rejected_cents")}
    rejections = tuple(map(read_rejection, document["rejections"]))
    return Receipt(**{**document, **amounts, "rejections": rejections}, key_id=key_id)


def read_rejection(entry: Any) -> Rejection:
    """Return the rejection that a receipt or a status lists.

    :raises ValueError: where it is not one
    """
    require_shape(entry, _REJECTION, "a rejection")
    return Rejection(**{**entry, "amount_cents": int(entry["amount_cents"])})


def _require_consistent(receipt: Receipt, where: str) -> None:
    listed = receipt.rejections
    if len({entry.rpt_id for entry in listed}) != receipt.rejected_count or (
        len(listed) != receipt.rejected_count
    ):
        raise _inconsistent(where, f"it lists {len(listed)} of {receipt.rejected_count} rejections")
    if sum(entry.amount_cents for entry in listed) != receipt.rejected_cents:
        raise _inconsistent(where, "the rejections it lists do not add up to rejected_cents")
    if receipt.outcome != _outcome(receipt.accepted_count, receipt.rejected_count):
        raise _inconsistent(where, f"its counts do not make it {receipt.outcome}")


def _outcome(accepted: int, rejected: int) -> str:
    if not rejected:
        return "accepted"
    return "partially_accepted" if accepted else "rejected"


def _require_binding(receipt: Receipt, sent: Sent, where: str) -> None:
    for name in _BOUND:
        found, expected = getattr(receipt, name), getattr(sent, name)
        if found != expected:
            raise ApgmsError(
                "receipt.other_submission",
                "A receipt answers another submission than ours",
                where=where,
                why=f"its {name} is {found}, ours is {expected}",
                mend="keep it and ask the gateway for the receipt of this manifest checksum again",
            )


def _wrong_environment(where: str, found: str, allowed: tuple[str, ...]) -> ApgmsError:
    return ApgmsError(
        "receipt.wrong_environment",
        "A receipt comes from another environment",
        where=where,
        why=f"it was issued by {found}; the policy allows {', '.join(allowed) or 'none'}",
        mend="correct apgms_gateway_url; a receipt of another environment proves nothing here",
    )


def _inconsistent(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "receipt.inconsistent",
        "A receipt contradicts itself or what was sent",
        where=where,
        why=why,
        mend="keep it and take it up with the authority; nothing was recorded as acknowledged",
    )


def _malformed(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "receipt.malformed",
        "A receipt does not hold what a receipt holds",
        where=where,
        why=why,
        mend="ask the gateway for it again; a receipt is never repaired by hand",
    )
