# GNU General Public License v3.0+ (see COPYING)
"""Reconciliation pass tokens: what makes a row of ``rpt_tokens`` fit to be released.

A verdict is data: every rule that a row breaks becomes a :class:`Finding`; nothing is raised.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ...errors import ApgmsError
from ...libraries import cryptography_exceptions, ed25519
from ..formats.canonical import sha256_hex
from ..release.image import flat_line
from .anomaly import anomalies, is_number
from .periods import PERIOD_ID
from .rpt_payload import REQUIRED, candidate_messages, parse_payload

USABLE = ("ISSUED", "active")
"""The status of a token that may be released."""
TAX_TYPES = ("GST", "PAYGW")


@dataclass(frozen=True, slots=True)
class Token:
    """A row of ``rpt_tokens``; the optional columns are None where the deployment has none."""

    id: int
    abn: str
    tax_type: str
    period_id: str
    payload: str
    """The text of the jsonb."""
    signature: str
    status: str
    created_at: datetime
    payload_c14n: str | None
    payload_sha256: str | None
    columns: Mapping[str, Any]
    """``nonce``, ``kid``, ``rates_version``, ``expires_at``: those that the table has."""
    usable_of_period: int
    """How many usable tokens the period has."""
    nonce_repeated: bool
    """Another row of the table carries the same nonce."""


@dataclass(frozen=True, slots=True)
class Period:
    """What ``periods`` and the ledger say about a token's period. Amounts are cents."""

    final_liability_cents: int
    credited_to_owa_cents: int
    columns: Mapping[str, Any]
    """``merkle_root``, ``running_balance_hash``: those that the table has."""
    anomaly_vector: Mapping[str, Any] | None
    thresholds: Mapping[str, Any] | None
    """Both None where the table has no such columns."""
    ledger_hash: str | None
    """``hash_after`` of the period's last ledger row."""
    deviations: str | None = None
    """How rows of the period's ledger deviate from the chain rule, where any do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What rows are measured by; ``keys`` are the pinned public keys by key id."""

    keys: Mapping[str, ed25519.Ed25519PublicKey]
    now: datetime
    max_age: timedelta
    rates_version: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a row breaks, with the evidence."""

    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one row: fit exactly when there are no findings."""

    token: Token
    findings: tuple[Finding, ...]
    message: str
    """What was signed; where no form of the payload verifies, the likeliest."""
    kid: str | None
    amount_cents: int
    expired: bool
    """The token has expired since it was issued; a stored token normally has."""

    def to_line(self) -> bytes:
        """Return the row's line of ``rpts/*.jsonl``, with its newline."""
        token = self.token
        return flat_line(
            {
                "abn": token.abn,
                "amount_cents": str(self.amount_cents),
                "created_at": token.created_at.isoformat().replace("+00:00", "Z"),
                "id": str(token.id),
                "kid": self.kid,
                "payload_c14n": self.message,
                "payload_sha256": sha256_hex(self.message.encode()),
                "period_id": token.period_id,
                "signature": token.signature,
                "status": token.status,
                "tax_type": token.tax_type,
            }
        )


def load_keys(pinned: Mapping[str, str]) -> dict[str, ed25519.Ed25519PublicKey]:
    """Return the RPT public keys of a policy by key id, from raw 32 bytes in base64.

    :raises ApgmsError: ``policy.rpt_key``
    """
    return {kid: _load_key(kid, text) for kid, text in pinned.items()}


def check(token: Token, period: Period, rules: Rules) -> Checked:
    """Measure a row by every rule."""
    try:
        payload, messages = _read(token)
    except ValueError as error:
        unreadable = Finding("rpt.payload_unreadable", str(error))
        return Checked(token, (unreadable,), token.payload, None, 0, False)
    message, kid, findings = _check_signature(token, payload, messages, rules)
    expiry = _moment(payload.get("expiry_ts"))
    findings += _row_findings(token)
    findings += _field_findings(token, payload, period, rules)
    findings += _period_findings(payload, period)
    findings += _time_findings(token, expiry, rules)
    amount = payload.get("amount_cents")
    return Checked(
        token,
        tuple(findings),
        message,
        kid,
        amount if isinstance(amount, int) else 0,
        expiry is not None and expiry <= rules.now,
    )


def _read(token: Token) -> tuple[dict[str, Any], list[str]]:
    """Return the payload and the messages that may have been signed, likeliest first."""
    payload = parse_payload(token.payload)
    missing = [name for name in REQUIRED if name not in payload]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if token.payload_c14n is None:
        return payload, candidate_messages(payload)
    if parse_payload(token.payload_c14n) != payload:
        raise ValueError("payload_c14n, which is signed, says something else than payload")
    return payload, [token.payload_c14n]


def _check_signature(
    token: Token, payload: Mapping[str, Any], messages: list[str], rules: Rules
) -> tuple[str, str | None, list[Finding]]:
    findings = []
    if token.payload_sha256 is not None:
        hashed = [text for text in messages if sha256_hex(text.encode()) == token.payload_sha256]
        if not hashed:
            evidence = f"stored {token.payload_sha256}, found {sha256_hex(messages[0].encode())}"
            findings.append(Finding("rpt.payload_hash", evidence))
        messages = hashed or messages
    keys = _keys_of(token, payload, rules.keys)
    if not keys:
        evidence = f"unverifiable: no key ({_kid(token, payload) or 'no key id'}) is pinned"
        return messages[0], None, [*findings, Finding("rpt.no_key", evidence)]
    signature = _signature_bytes(token.signature)
    for message in messages:
        for kid, key in keys.items():
            if signature is not None and _holds(key, signature, message):
                return message, kid, findings
    evidence = f"it holds under none of {', '.join(sorted(keys))}"
    return messages[0], None, [*findings, Finding("rpt.signature", evidence)]


def _kid(token: Token, payload: Mapping[str, Any]) -> str | None:
    kid = payload.get("kid", token.columns.get("kid"))
    return kid if kid is None else str(kid)


def _keys_of(
    token: Token, payload: Mapping[str, Any], keys: Mapping[str, ed25519.Ed25519PublicKey]
) -> Mapping[str, ed25519.Ed25519PublicKey]:
    kid = _kid(token, payload)
    if kid is None:
        return keys
    return {kid: keys[kid]} if kid in keys else {}


def _row_findings(token: Token) -> Iterator[Finding]:
    if token.status not in USABLE:
        yield Finding("rpt.status", f"it is {token.status}, not {' or '.join(USABLE)}")
    if token.tax_type not in TAX_TYPES or not PERIOD_ID.fullmatch(token.period_id):
        yield Finding("rpt.unknown_period", f"{token.tax_type} {token.period_id}")
    if token.usable_of_period > 1:
        yield Finding("rpt.second_token", f"{token.usable_of_period} tokens of it are usable")


def _field_findings(
    token: Token, payload: Mapping[str, Any], period: Period, rules: Rules
) -> Iterator[Finding]:
    amount = payload["amount_cents"]
    if not isinstance(amount, int) or isinstance(amount, bool) or amount < 0:
        yield Finding("rpt.amount", f"amount_cents is {amount!r}")
    expected = {
        "entity_id": token.abn,
        "period_id": token.period_id,
        "tax_type": token.tax_type,
        "amount_cents": period.final_liability_cents,
        **period.columns,
    }
    for name, value in expected.items():
        if payload[name] != value:
            yield Finding("rpt.field", f"{name} is {payload[name]}, the row or period says {value}")
    yield from _column_findings(token, payload)
    if payload.get("rates_version", rules.rates_version) != rules.rates_version:
        evidence = f"issued under {payload['rates_version']}, this release is {rules.rates_version}"
        yield Finding("rpt.rates_version", evidence)
    nonce = payload["nonce"]
    if not isinstance(nonce, str) or not nonce or token.nonce_repeated:
        yield Finding("rpt.nonce", f"{nonce!r} is not the nonce of this row alone")


def _column_findings(token: Token, payload: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in token.columns.items():
        said = payload.get(_MEMBER_OF.get(name, name))
        if isinstance(value, datetime):
            said = _moment(said)
        if value is not None and said is not None and value != said:
            yield Finding("rpt.field", f"column {name} is {value}, the payload says {said}")


_MEMBER_OF = {"expires_at": "expiry_ts"}


def _period_findings(payload: Mapping[str, Any], period: Period) -> Iterator[Finding]:
    gap = abs(period.final_liability_cents - period.credited_to_owa_cents)
    epsilon = _epsilon(payload["thresholds"], period.thresholds)
    if gap > epsilon:
        yield Finding("rpt.unreconciled", f"{gap} cents apart, at most {epsilon} allowed")
    found = anomalies(*_objects(payload["anomaly_vector"], payload["thresholds"]))
    if period.anomaly_vector is not None:
        found += anomalies(*_objects(period.anomaly_vector, period.thresholds))
    for measure in dict.fromkeys(found):
        yield Finding("rpt.anomaly", measure)
    if period.ledger_hash is None:
        yield Finding("rpt.ledger_hash", "the ledger has no hash for this period's last row")
    elif payload["running_balance_hash"] != period.ledger_hash:
        evidence = f"token {payload['running_balance_hash']}, ledger {period.ledger_hash}"
        yield Finding("rpt.ledger_hash", evidence)
    if period.deviations:
        yield Finding("rpt.ledger_chain", f"ledger rows deviate: {period.deviations}")


def _epsilon(*thresholds: Any) -> Any:
    """Return the strictest epsilon that is stated, in cents; 0 where none is."""
    limits = [values.get("epsilon_cents") for values in _objects(*thresholds)]
    stated: list[Any] = [value for value in limits if is_number(value)]
    return min(stated, default=0)


def _objects(*values: Any) -> list[Mapping[str, Any]]:
    return [value if isinstance(value, Mapping) else {} for value in values]


def _time_findings(token: Token, expiry: datetime | None, rules: Rules) -> Iterator[Finding]:
    if expiry is None or token.created_at >= expiry:
        evidence = f"issued {token.created_at.isoformat()}, expiry {expiry}"
        yield Finding("rpt.invalid_at_issue", evidence)
    age = rules.now - token.created_at
    if not timedelta(0) <= age <= rules.max_age:
        yield Finding("rpt.age", f"it is {age} old, at most {rules.max_age} is allowed")


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else None


def _signature_bytes(text: str) -> bytes | None:
    """Decode base64 or base64url, padded or not; None where it is not 64 bytes of it."""
    standard = text.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        return None
    return raw if len(raw) == 64 else None


def _holds(key: ed25519.Ed25519PublicKey, signature: bytes, message: str) -> bool:
    try:
        key.verify(signature, message.encode())
    except cryptography_exceptions.InvalidSignature:
        return False
    return True


def _load_key(kid: str, text: str) -> ed25519.Ed25519PublicKey:
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ApgmsError(
            "policy.rpt_key",
            "A pinned RPT public key cannot be read",
            where=f"policy, rpt_keys, {kid}",
            why=str(error),
            mend="write its raw 32 bytes in base64 (RPT_PUBLIC_BASE64), and sign the policy again",
        ) from None
