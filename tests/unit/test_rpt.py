# GNU General Public License v3.0+ (see COPYING)
"""Each rule of an RPT row, broken one at a time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.image import flat_line
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.anomaly import anomalies
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rpt import (
    Checked,
    Period,
    Rules,
    Token,
    check,
    load_keys,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rpt_payload import (
    candidate_messages,
    compact,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from tests.conftest import SHARED

ISSUER = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
ISSUED = datetime(2025, 10, 4, 20, 17, 18, 772000, UTC)
VECTOR = {"variance_ratio": 0.1, "dup_rate": 0, "gap_minutes": 10, "delta_vs_baseline": -0.05}
THRESHOLDS = {
    "epsilon_cents": 50,
    "variance_ratio": 0.25,
    "dup_rate": 0.01,
    "gap_minutes": 60,
    "delta_vs_baseline": 0.2,
}
PAYLOAD = {
    "entity_id": "53004085616",
    "period_id": "2025-09",
    "tax_type": "GST",
    "amount_cents": 123456,
    "merkle_root": "m",
    "running_balance_hash": "h4",
    "anomaly_vector": VECTOR,
    "thresholds": THRESHOLDS,
    "rail_id": "EFT",
    "reference": "1234567890",
    "expiry_ts": "2025-10-04T20:32:18.735Z",
    "nonce": "51f52375-138d-4198-8e8f-f393cdcbb1ac",
}
PERIOD = Period(
    final_liability_cents=123456,
    credited_to_owa_cents=123456,
    columns={"merkle_root": "m", "running_balance_hash": "h4"},
    anomaly_vector=VECTOR,
    thresholds=THRESHOLDS,
    ledger_hash="h4",
)


def rules(**changes: Any) -> Rules:
    raw = base64.b64encode(ISSUER.public_key().public_bytes_raw()).decode()
    plain = Rules(load_keys({"rpt-1": raw}), ISSUED + timedelta(days=1), timedelta(days=30), "r1")
    return dataclasses.replace(plain, **changes)


def token(
    payload: dict[str, Any] | None = None,
    *,
    message: str | None = None,
    key: Ed25519PrivateKey = ISSUER,
    **changes: Any,
) -> Token:
    """A token as an APGMS issuer stores it; ``payload`` changes members."""
    whole = {**PAYLOAD, **(payload or {})}
    signed = compact(whole) if message is None else message
    stored = Token(
        id=7,
        abn="53004085616",
        tax_type="GST",
        period_id="2025-09",
        payload=json.dumps(whole, sort_keys=True),
        signature=base64.b64encode(key.sign(signed.encode())).decode(),
        status="ISSUED",
        created_at=ISSUED,
        payload_c14n=signed,
        payload_sha256=hashlib.sha256(signed.encode()).hexdigest(),
        columns={},
        usable_of_period=1,
        nonce_repeated=False,
    )
    return dataclasses.replace(stored, **changes)


def reasons(row: Token, period: Period = PERIOD, **changes: Any) -> set[str]:
    return {finding.reason for finding in check(row, period, rules(**changes)).findings}


def period(**changes: Any) -> Period:
    return dataclasses.replace(PERIOD, **changes)


def test_a_good_row_with_all_that_a_bundle_needs() -> None:
    checked = check(token(), PERIOD, rules())
    assert checked.findings == ()
    assert (checked.kid, checked.amount_cents, checked.expired) == ("rpt-1", 123456, True)
    line = json.loads(checked.to_line())
    assert line["payload_sha256"] == hashlib.sha256(line["payload_c14n"].encode()).hexdigest()
    assert (line["id"], line["amount_cents"], line["kid"]) == ("7", "123456", "rpt-1")
    assert canonical(line) + b"\n" == checked.to_line()


@pytest.mark.parametrize("status", ["ISSUED", "active"])
def test_usable_status(status: str) -> None:
    assert reasons(token(status=status)) == set()


@pytest.mark.parametrize("status", ["REVOKED", "consumed", "pending", "issued", ""])
def test_other_status(status: str) -> None:
    assert reasons(token(status=status)) == {"rpt.status"}


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("pad", ["=", ""])
def test_both_base64_alphabets_padded_or_not(encode: Any, pad: str) -> None:
    raw = base64.b64decode(token().signature)
    text = encode(raw).decode().rstrip("=") + 2 * pad
    assert reasons(token(signature=text)) == set()


@pytest.mark.parametrize("signature", ["", "x", "AAAA", "A" * 86 + "==", "\u00e9" * 88])
def test_a_signature_that_is_none(signature: str) -> None:
    assert reasons(token(signature=signature)) == {"rpt.signature"}


def test_a_signature_by_another_key() -> None:
    assert reasons(token(key=OTHER)) == {"rpt.signature"}


def test_no_key_is_said_so_and_is_not_called_invalid() -> None:
    (finding,) = check(token(), PERIOD, rules(keys={})).findings
    assert finding.reason == "rpt.no_key"
    assert "unverifiable: no key" in finding.evidence
    assert reasons(token({"kid": "rpt-2"})) == {"rpt.no_key"}
    assert reasons(token(columns={"kid": "rpt-2"})) == {"rpt.no_key"}


@given(st.data())
def test_a_changed_byte_of_the_message_never_verifies(data: st.DataObject) -> None:
    row = token()
    assert row.payload_c14n is not None
    position = data.draw(st.integers(0, len(row.payload_c14n) - 1))
    other = chr(
        data.draw(st.integers(33, 126).filter(lambda n: chr(n) != row.payload_c14n[position]))
    )  # type: ignore[index]
    message = row.payload_c14n[:position] + other + row.payload_c14n[position + 1 :]
    digest = hashlib.sha256(message.encode()).hexdigest()
    assert reasons(dataclasses.replace(row, payload_c14n=message, payload_sha256=digest))


@pytest.mark.parametrize(
    "message",
    [
        compact(PAYLOAD),
        compact(dict(sorted({**PAYLOAD, "anomaly_vector": dict(sorted(VECTOR.items()))}.items()))),
    ],
)
def test_without_the_message_both_orders_are_tried(message: str) -> None:
    stored = json.loads(message)
    if list(stored) == sorted(stored):
        stored["thresholds"] = dict(sorted(THRESHOLDS.items()))
        message = compact(stored)
    row = token(message=message, payload_c14n=None, payload_sha256=None)
    checked = check(row, PERIOD, rules())
    assert checked.findings == ()
    assert checked.message == message


def test_inner_objects_in_the_order_that_jsonb_gives() -> None:
    def by_jsonb(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = sorted(value, key=lambda key: (len(key), key))
        return {key: by_jsonb(value[key]) for key in keys}

    issued = {name: by_jsonb(value) for name, value in PAYLOAD.items()}
    row = token(message=compact(issued), payload_c14n=None, payload_sha256=None)
    row = dataclasses.replace(row, payload=json.dumps(by_jsonb(PAYLOAD)))
    assert reasons(row) == set()


def test_the_stored_hash_must_be_the_payload_s() -> None:
    assert reasons(token(payload_sha256="0" * 64)) == {"rpt.payload_hash"}
    assert reasons(token(payload_sha256="0" * 64, payload_c14n=None)) == {"rpt.payload_hash"}


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({**PAYLOAD, "amount_cents": 1}),
        "[]",
        "7",
        "{",
        json.dumps({k: v for k, v in PAYLOAD.items() if k != "nonce"}),
    ],
)
def test_a_payload_that_is_not_what_was_signed(payload: str) -> None:
    assert reasons(dataclasses.replace(token(), payload=payload)) == {"rpt.payload_unreadable"}


@pytest.mark.parametrize(
    "message", [compact(PAYLOAD)[:-1] + ',"nonce":"x"}', '{"a":NaN}', "{}", "", "nonsense"]
)
def test_a_message_that_is_not_one_reading(message: str) -> None:
    assert reasons(token(message=message)) == {"rpt.payload_unreadable"}


@pytest.mark.parametrize(
    "members",
    [
        {"entity_id": "12345678901"},
        {"period_id": "2025-08"},
        {"tax_type": "PAYGW"},
        {"amount_cents": 123457},
        {"merkle_root": "other"},
    ],
)
def test_fields_agree_with_row_and_period(members: dict[str, Any]) -> None:
    assert reasons(token(members)) == {"rpt.field"}


@pytest.mark.parametrize("amount", [-1, True, "123456", 1.5, None])
def test_an_amount_is_a_whole_number_of_cents(amount: Any) -> None:
    assert "rpt.amount" in reasons(token({"amount_cents": amount}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("nonce", "another"),
        ("rates_version", "r2"),
        ("expires_at", datetime(2025, 10, 4, 20, 33, tzinfo=UTC)),
    ],
)
def test_extra_columns_agree_with_the_payload(column: str, value: Any) -> None:
    row = token({"rates_version": "r1"}, columns={column: value})
    assert reasons(row) == {"rpt.field"}
    assert reasons(token(columns={column: None})) == set()


def test_rates_of_another_release() -> None:
    assert reasons(token({"rates_version": "r0"})) == {"rpt.rates_version"}


def test_the_period_must_be_known_and_have_one_token() -> None:
    assert reasons(token(period_id="2025-13")) == {"rpt.unknown_period", "rpt.field"}
    assert reasons(token(tax_type="../x")) == {"rpt.unknown_period", "rpt.field"}
    assert reasons(token(usable_of_period=2)) == {"rpt.second_token"}
    assert reasons(token(nonce_repeated=True)) == {"rpt.nonce"}
    assert reasons(token({"nonce": ""})) == {"rpt.nonce"}


@pytest.mark.parametrize(("credited", "fit"), [(123406, True), (123506, True), (123405, False)])
def test_reconciled_within_epsilon_inclusive(credited: int, fit: bool) -> None:
    expected = set() if fit else {"rpt.unreconciled"}
    assert reasons(token(), period(credited_to_owa_cents=credited)) == expected


def test_the_stricter_epsilon_holds() -> None:
    row = token({"thresholds": {**THRESHOLDS, "epsilon_cents": 0}})
    assert reasons(row, period(credited_to_owa_cents=123455)) == {"rpt.unreconciled"}


def test_the_ledger_s_last_hash() -> None:
    assert reasons(token(), period(ledger_hash="h5")) == {"rpt.ledger_hash"}
    assert reasons(token(), period(ledger_hash=None)) == {"rpt.ledger_hash"}


def test_the_period_s_own_anomalies_count_too() -> None:
    worse = {**VECTOR, "gap_minutes": 61}
    assert reasons(token(), period(anomaly_vector=worse)) == {"rpt.anomaly"}
    assert reasons(token({"anomaly_vector": worse})) == {"rpt.anomaly"}
    assert reasons(token(), period(anomaly_vector=None, thresholds=None)) == set()


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (timedelta(minutes=15), {"rpt.invalid_at_issue"}),
        (timedelta(minutes=14), set()),
        (-timedelta(days=29, seconds=1), {"rpt.age"}),
        (timedelta(days=2), {"rpt.invalid_at_issue", "rpt.age"}),
    ],
)
def test_valid_at_issue_and_not_too_old(created: timedelta, expected: set[str]) -> None:
    assert reasons(token(created_at=ISSUED + created)) == expected


@pytest.mark.parametrize("expiry", ["", "tomorrow", None, "2025-10-04T20:32:18", 5])
def test_an_expiry_that_is_none(expiry: Any) -> None:
    assert reasons(token({"expiry_ts": expiry})) == {"rpt.invalid_at_issue"}


def test_every_broken_rule_is_named() -> None:
    row = token({"merkle_root": "x"}, key=OTHER, status="REVOKED")
    assert reasons(row) == {"rpt.field", "rpt.signature", "rpt.status"}


@pytest.mark.parametrize("measure", VECTOR)
@given(limit=st.floats(0, 1e6), step=st.floats(0, 1e6))
def test_an_anomaly_blocks_strictly_above(measure: str, limit: float, step: float) -> None:
    value = limit + step
    found = anomalies({**VECTOR, measure: value}, {**THRESHOLDS, measure: limit})
    assert bool(found) == (value > limit)


def test_delta_counts_by_its_size_and_unknown_measures_block() -> None:
    assert anomalies({**VECTOR, "delta_vs_baseline": -0.21}, THRESHOLDS)
    assert not anomalies({**VECTOR, "delta_vs_baseline": -0.2}, THRESHOLDS)
    assert len(anomalies({}, THRESHOLDS)) == len(anomalies(VECTOR, {})) == 4
    assert anomalies({**VECTOR, "dup_rate": "0"}, THRESHOLDS)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_as_ecmascript_does(value: float) -> None:
    assert compact(value).encode() == rfc8785.dumps(value)


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.sampled_from("abc"), texts | st.integers(0, 2**53 - 1) | st.booleans()))
def test_sorted_messages_are_canonical(payload: dict[str, Any]) -> None:
    assert candidate_messages(payload)[-1].encode() == rfc8785.dumps(payload)


@given(st.dictionaries(texts.filter(str.isascii), texts | st.none()))
def test_flat_lines_are_canonical(value: dict[str, Any]) -> None:
    assert flat_line(value) == canonical(value) + b"\n"


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!"])
def test_a_pinned_key_that_is_none(text: str) -> None:
    with pytest.raises(ApgmsError, match="raw 32 bytes"):
        load_keys({"rpt-1": text})


@pytest.mark.skipif(not SHARED.exists(), reason="no shared vectors here")
def test_a_real_token_without_a_known_key() -> None:
    file = json.loads((SHARED / "vectors/evidence_12345678901_2025-09_GST.json").read_text())
    stored = file["rpt"]
    row = token(
        payload=stored["payload"],
        message="",
        abn="12345678901",
        signature=stored["signature"],
        created_at=datetime.fromisoformat(stored["created_at"]),
    )
    row = dataclasses.replace(
        row, payload=json.dumps(stored["payload"]), payload_c14n=None, payload_sha256=None
    )
    real = Period(
        final_liability_cents=file["period"]["final_liability_cents"],
        credited_to_owa_cents=file["period"]["credited_to_owa_cents"],
        columns={name: file["period"][name] for name in ("merkle_root", "running_balance_hash")},
        anomaly_vector=file["period"]["anomaly_vector"],
        thresholds=file["period"]["thresholds"],
        ledger_hash=file["owa_ledger"][2]["hash_after"],
    )
    checked: Checked = check(row, real, rules(keys={}))
    assert [finding.reason for finding in checked.findings] == ["rpt.no_key", "rpt.ledger_hash"]
    assert "unverifiable: no key" in checked.findings[0].evidence
