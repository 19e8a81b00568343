# GNU General Public License v3.0+ (see COPYING)
"""A receipt counts only where key, signature, environment, binding and figures all hold."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats import dsse
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.receipt import (
    PAYLOAD_TYPE,
    SCHEMA,
    Rejection,
    Sent,
    verify_receipt,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import Signer, open_signer

SENT = Sent(
    environments=("production",),
    stack="prod",
    manifest_sha256="a" * 64,
    submission_id="prod-202510010000",
    idempotency_key="prod-key-0123456789",
    body_sha256="b" * 64,
    count=3,
    amount_cents=600,
)
REFUSED_ROW = {
    "rpt_id": "7",
    "tax_type": "GST",
    "period_id": "2025-09",
    "amount_cents": "100",
    "code": "not_payable",
    "reason": "no",
}
DOCUMENT: dict[str, Any] = {
    "schema": SCHEMA,
    "receipt_id": "rcpt-1",
    "job_id": "job-1",
    "environment": "production",
    "stack": SENT.stack,
    "manifest_sha256": SENT.manifest_sha256,
    "submission_id": SENT.submission_id,
    "idempotency_key": SENT.idempotency_key,
    "body_sha256": SENT.body_sha256,
    "outcome": "partially_accepted",
    "accepted_count": 2,
    "accepted_cents": "500",
    "rejected_count": 1,
    "rejected_cents": "100",
    "rejections": [REFUSED_ROW],
    "issued_at": "2025-10-01T00:00:00.000Z",
}


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return _signer(tmp_path_factory.mktemp("keys") / "gateway.pem")


def _signer(path: Path) -> Signer:
    subprocess.run(
        f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {path}".split(),
        check=True,
        capture_output=True,
    )
    return open_signer(str(path), "ecdsa-p256")


def _pins(signer: Signer) -> dict[str, str]:
    return {signer.key_id: signer.public_pem.decode()}


def _sealed(signer: Signer, **changes: Any) -> bytes:
    payload = canonical({**DOCUMENT, **changes})
    return dsse.seal(PAYLOAD_TYPE, payload, signer.key_id, signer.sign)


def _reason(data: bytes, signer: Signer, sent: Sent = SENT) -> str:
    with pytest.raises(ApgmsError) as caught:
        verify_receipt(data, _pins(signer), sent, where="receipt.json")
    return caught.value.reason


def test_a_receipt_is_read_as_the_gateway_wrote_it(signer: Signer) -> None:
    receipt = verify_receipt(_sealed(signer), _pins(signer), SENT, where="receipt.json")

    assert receipt.rejections == (Rejection("7", "GST", "2025-09", 100, "not_payable", "no"),)
    assert (receipt.accepted_cents, receipt.rejected_cents) == (500, 100)
    assert (receipt.outcome, receipt.key_id) == ("partially_accepted", signer.key_id)


def test_openssl_verifies_the_signature_over_the_pre_authentication_encoding(
    signer: Signer, tmp_path: Path
) -> None:
    envelope = json.loads(_sealed(signer))
    payload = base64.b64decode(envelope["payload"])
    head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode()
    (tmp_path / "message").write_bytes(head + payload)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "key.pem").write_bytes(signer.public_pem)

    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "message"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "Verified OK"


@pytest.mark.parametrize("name", ["stack", "manifest_sha256", "submission_id"])
def test_a_receipt_of_another_submission_is_refused(signer: Signer, name: str) -> None:
    assert _reason(_sealed(signer, **{name: "other"}), signer) == "receipt.other_submission"


@pytest.mark.parametrize("name", ["idempotency_key", "body_sha256"])
def test_a_receipt_of_another_attempt_is_refused(signer: Signer, name: str) -> None:
    changes: dict[str, Any] = {name: "other"}
    sent = dataclasses.replace(SENT, **changes)

    assert _reason(_sealed(signer), signer, sent) == "receipt.other_submission"


def test_a_receipt_of_another_environment_is_refused(signer: Signer) -> None:
    assert _reason(_sealed(signer, environment="sandbox"), signer) == "receipt.wrong_environment"


@pytest.mark.parametrize(
    "changes",
    [
        {"accepted_count": 1},
        {"accepted_cents": "499"},
        {"rejected_count": 2},
        {"rejected_cents": "99"},
        {"outcome": "accepted"},
        {"outcome": "rejected"},
        {"rejections": []},
        {"rejections": [REFUSED_ROW, REFUSED_ROW], "rejected_count": 2, "rejected_cents": "200"},
    ],
    ids=str,
)
def test_figures_that_do_not_agree_are_refused(signer: Signer, changes: dict[str, Any]) -> None:
    assert _reason(_sealed(signer, **changes), signer) == "receipt.inconsistent"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "apgms.release/receipt/2"},
        {"outcome": "fine"},
        {"accepted_count": "2"},
        {"accepted_count": -2},
        {"accepted_count": True},
        {"accepted_cents": 500},
        {"accepted_cents": "0500"},
        {"rejections": {}},
        {"rejections": [{"rpt_id": "7"}]},
        {"job_id": ""},
        {"receipt_id": "rcpt-\x00"},
        {"job_id": "\x1b[2J"},
        {"issued_at": "x" * 501},
        {"rejections": [{**REFUSED_ROW, "reason": "\x00"}]},
        {"accepted_cents": str(10**18)},
        {"extra": "member"},
    ],
    ids=str,
)
def test_what_is_not_a_receipt_is_refused(signer: Signer, changes: dict[str, Any]) -> None:
    assert _reason(_sealed(signer, **changes), signer) == "receipt.malformed"


def test_a_receipt_by_an_unpinned_key_is_refused(signer: Signer, tmp_path: Path) -> None:
    stranger = _signer(tmp_path / "stranger.pem")

    assert _reason(_sealed(stranger), signer) == "receipt.unpinned_key"


def test_a_receipt_forged_under_the_name_of_a_pinned_key_is_refused(
    signer: Signer, tmp_path: Path
) -> None:
    stranger = _signer(tmp_path / "stranger.pem")
    forged = dsse.seal(PAYLOAD_TYPE, canonical(DOCUMENT), signer.key_id, stranger.sign)

    assert _reason(forged, signer) == "receipt.bad_signature"


def _with_payload(envelope: dict[str, Any]) -> dict[str, Any]:
    altered = canonical({**DOCUMENT, "accepted_cents": "501"})
    return {**envelope, "payload": base64.b64encode(altered).decode()}


def test_a_receipt_altered_after_it_was_signed_is_refused(signer: Signer) -> None:
    altered = canonical(_with_payload(json.loads(_sealed(signer))))

    assert _reason(altered, signer) == "receipt.bad_signature"


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another payload type": lambda envelope: {**envelope, "payloadType": "text/plain"},
    "no signature": lambda envelope: {**envelope, "signatures": []},
    "two signatures": lambda envelope: {**envelope, "signatures": envelope["signatures"] * 2},
    "a number for a key id": lambda envelope: {**envelope, "signatures": [{"keyid": 1, "sig": ""}]},
    "no base64": lambda envelope: {**envelope, "payload": "?"},
    "stray bits in base64": lambda envelope: {**envelope, "payload": "AB=="},
    "another member": lambda envelope: {**envelope, "note": ""},
    "a list": lambda envelope: [envelope],
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_envelope_is_refused(
    signer: Signer, change: Callable[[dict[str, Any]], Any]
) -> None:
    assert _reason(canonical(change(json.loads(_sealed(signer)))), signer) == "receipt.malformed"


@pytest.fixture(scope="session")
def sealed(signer: Signer) -> bytes:
    return _sealed(signer)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(signer: Signer, sealed: bytes, data: st.DataObject) -> None:
    envelope = bytearray(sealed)
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= data.draw(st.integers(1, 255))

    assert _reason(bytes(envelope), signer) in {
        "receipt.malformed",
        "receipt.unpinned_key",
        "receipt.bad_signature",
    }
