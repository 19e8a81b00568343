# GNU General Public License v3.0+ (see COPYING)
"""Envelopes and the statements in them."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.attestation import (
    PAYLOAD_TYPE,
    SEAL,
    VERDICT,
    attest,
    read_attestation,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.dsse import (
    open_envelope,
    pre_authentication_encoding,
    seal,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import key_id, public_pem

EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
EC_PEM, ED_PEM = public_pem(EC_KEY.public_key()), public_pem(ED_KEY.public_key())
EC_ID, ED_ID = key_id(EC_PEM), key_id(ED_PEM)
KEYS = {EC_ID: EC_PEM.decode(), ED_ID: ED_PEM.decode()}
FILES = {"a.json": "0" * 64, "b/c.jsonl": "1" * 64}


def ec_sign(message: bytes) -> bytes:
    return EC_KEY.sign(message, ec.ECDSA(hashes.SHA256()))


ENVELOPE = seal("text/plain", b"hello", EC_ID, ec_sign)


def reason(data: bytes, payload_type: str = "text/plain", keys: dict[str, str] = KEYS) -> str:
    with pytest.raises(ApgmsError) as caught:
        open_envelope(data, payload_type, keys, what="note", where="here")
    return caught.value.reason


def test_the_encoding_is_that_of_the_specification() -> None:
    """The example of DSSE's protocol.md."""
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize(("who", "sign"), [(EC_ID, ec_sign), (ED_ID, ED_KEY.sign)])
@given(payload=st.binary(max_size=200))
def test_what_was_sealed_comes_out(who: str, sign: Any, payload: bytes) -> None:
    data = seal("a/b", payload, who, sign)
    opened = open_envelope(data, "a/b", KEYS, what="note", where="here")
    assert (opened.payload, opened.key_id) == (payload, who)


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_no_other_bytes_open(position: int, flip: int) -> None:
    data = bytearray(ENVELOPE)
    data[position] ^= flip
    assert reason(bytes(data)).startswith("note.")


def test_openssl_agrees(tmp_path: Path) -> None:
    envelope = json.loads(ENVELOPE)
    (tmp_path / "key.pem").write_bytes(EC_PEM)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "message").write_bytes(pre_authentication_encoding("text/plain", b"hello"))
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature"]
    subprocess.run([*command, "message"], cwd=tmp_path, check=True, capture_output=True)


def changed(**members: Any) -> bytes:
    return canonical({**json.loads(ENVELOPE), **members})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "note.malformed"),
        (b"{}", "note.malformed"),
        (changed(payload="aGVsbG8"), "note.malformed"),
        (changed(payload="aGVsbH=="), "note.malformed"),
        (changed(signatures=[]), "note.malformed"),
        (changed(signatures=json.loads(ENVELOPE)["signatures"] * 2), "note.malformed"),
        (changed(payload=base64.b64encode(b"jello").decode()), "note.bad_signature"),
        (changed(signatures=[{"keyid": ED_ID, "sig": "AAAA"}]), "note.bad_signature"),
        (seal("text/plain", b"hello", "f" * 64, ec_sign), "note.unpinned_key"),
        (seal("text/other", b"hello", EC_ID, ec_sign), "note.malformed"),
    ],
)
def test_envelopes_that_prove_nothing(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def statement(files: dict[str, str] = FILES, kind: str = VERDICT) -> bytes:
    return attest(files, kind, {"valid": 3}, EC_ID, ec_sign)


def test_a_statement_about_files() -> None:
    assert read_attestation(statement(), KEYS, FILES, VERDICT, where="here") == {"valid": 3}
    payload = json.loads(base64.b64decode(json.loads(statement())["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["subject"][0] == {"name": "a.json", "digest": {"sha256": "0" * 64}}


@pytest.mark.parametrize(
    "data",
    [
        statement(kind=SEAL),
        statement({**FILES, "a.json": "2" * 64}),
        statement({"a.json": "0" * 64}),
        seal(PAYLOAD_TYPE, b"[]", EC_ID, ec_sign),
        seal(PAYLOAD_TYPE, b"not JSON", EC_ID, ec_sign),
    ],
)
def test_a_statement_about_something_else(data: bytes) -> None:
    with pytest.raises(ApgmsError) as caught:
        read_attestation(data, KEYS, FILES, VERDICT, where="here")
    assert caught.value.reason == "attestation.other_subject"
