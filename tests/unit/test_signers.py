# GNU General Public License v3.0+ (see COPYING)
"""Signer lines and SSH signatures, of every accepted key type and against the stock tool."""

from __future__ import annotations

import base64
import hashlib
import signal
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.signers import (
    SignerLine,
    parse_public_key,
    parse_signer_line,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.ssh_signature import (
    Expected,
    parse_signature,
    require_claims,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports import ssh
from services.keys import make_ssh_key, ssh_sign

NAMESPACE = "apgms-approval-prod"
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
STOCK = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa-256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521"),
    "rsa": ("-t", "rsa", "-b", "2048"),
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ssh_key(tmp_path_factory.mktemp("ssh") / "key")


def public(key: Path) -> str:
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def line_of(text: str, options: str = f'namespaces="{NAMESPACE}"') -> SignerLine:
    return parse_signer_line(f"audrey {options} {text}", "test")


def expected(line: SignerLine, now: datetime = NOW, **changes: object) -> Expected:
    members = {"principal": "audrey", "namespace": NAMESPACE, "revoked_keys": ()}
    return Expected(now=now, allowed_signers=[line], **{**members, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("options", STOCK.values(), ids=STOCK.keys())
def test_stock_key_types_sign_and_verify(tmp_path: Path, options: tuple[str, ...]) -> None:
    key = make_ssh_key(tmp_path / "key", *options)
    signature = ssh.sign(str(key), NAMESPACE, b"text")
    ask = expected(line_of(public(key)))
    require_claims(signature, ask, "test")
    assert ssh.verify(b"text", signature, ask) is None
    assert "verify" in str(ssh.verify(b"another text", signature, ask))


def test_a_signature_does_not_verify_where_the_status_of_processes_is_lost(key: Path) -> None:
    signature = ssh.sign(str(key), NAMESPACE, b"text")
    ask = expected(line_of(public(key)))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert ssh.verify(b"text", signature, ask) is None
        assert ssh.verify(b"another text", signature, ask) is not None
    finally:
        signal.signal(signal.SIGCHLD, before)


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def fido_signature(kind: str, message: bytes) -> tuple[str, bytes]:
    """Return the public key and the signature that a FIDO key makes: PROTOCOL.u2f, SSHSIG."""
    signed = b"SSHSIG" + string(NAMESPACE.encode()) + string(b"") + string(b"sha512")
    signed += string(hashlib.sha512(message).digest())
    presence, counter = b"\x01", struct.pack(">I", 7)
    data = hashlib.sha256(b"ssh:").digest() + presence + counter
    data += hashlib.sha256(signed).digest()
    if "ed25519" in kind:
        private = ed25519.Ed25519PrivateKey.generate()
        point = string(private.public_key().public_bytes_raw())
        made = private.sign(data)
    else:
        curve = ec.generate_private_key(ec.SECP256R1())
        numbers = curve.public_key().public_numbers()
        raw = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        point = string(b"nistp256") + string(raw)
        r, s = decode_dss_signature(curve.sign(data, ec.ECDSA(hashes.SHA256())))
        made = mpint(r) + mpint(s)
    blob = string(kind.encode()) + point + string(b"ssh:")
    inner = string(kind.encode()) + string(made) + presence + counter
    outer = b"SSHSIG" + struct.pack(">I", 1) + string(blob) + string(NAMESPACE.encode())
    outer += string(b"") + string(b"sha512") + string(inner)
    body = base64.encodebytes(outer).decode()
    armored = f"-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n"
    return f"{kind} {base64.b64encode(blob).decode()}", armored.encode()


@pytest.mark.parametrize(
    "kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]
)
def test_fido_keys_verify(kind: str) -> None:
    key, signature = fido_signature(kind, b"text")
    ask = expected(line_of(key))
    require_claims(signature, ask, "test")
    assert ssh.verify(b"text", signature, ask) is None
    assert ssh.verify(b"another", signature, ask) is not None


def test_stock_tool_agrees_on_fingerprint(key: Path) -> None:
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", key.with_suffix(".pub")], capture_output=True, check=True
    ).stdout.decode()
    assert parse_public_key(public(key), "test").fingerprint == printed.split()[1]


def test_signature_says_its_key_and_namespace(key: Path) -> None:
    claims = parse_signature(ssh_sign(key, NAMESPACE, b"text"))
    assert (str(claims.key), claims.namespace) == (public(key), NAMESPACE)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('* namespaces="apgms-approval-prod" {key}', "signers.wildcard"),
        ('aud* namespaces="apgms-approval-prod" {key}', "signers.wildcard"),
        ('audrey,arthur namespaces="apgms-approval-prod" {key}', "signers.wildcard"),
        ('!audrey namespaces="apgms-approval-prod" {key}', "signers.wildcard"),
        ('audrey cert-authority,namespaces="apgms-approval-prod" {key}', "signers.cert_authority"),
        ('audrey CERT-AUTHORITY,namespaces="apgms-approval-prod" {key}', "signers.cert_authority"),
        ("audrey {key}", "signers.no_namespaces"),
        ('audrey valid-after="20260101Z" {key}', "signers.no_namespaces"),
        ('audrey namespaces="" {key}', "signers.no_namespaces"),
        ('audrey namespaces="apgms-*" {key}', "signers.unknown_namespace"),
        ('audrey namespaces="git" {key}', "signers.unknown_namespace"),
        ('audrey namespaces="apgms-approval-prod",valid-after="20260101" {key}',
         "signers.local_time"),
        ('audrey namespaces="apgms-approval-prod",valid-after="20261301Z" {key}',
         "signers.local_time"),
        ('audrey namespaces="apgms-approval-prod",namespaces="apgms-intent-prod" {key}',
         "signers.unknown_option"),
        ('audrey namespaces="apgms-approval-prod",no-touch-required {key}',
         "signers.unknown_option"),
        ('audrey namespaces="apgms-approval-prod" ssh-ed25519 AAAA', "signers.malformed_key"),
        ('audrey namespaces="apgms-approval-prod" ssh-rsa {blob}', "signers.malformed_key"),
        ('audrey namespaces="apgms-approval-prod" ssh-ed25519 {blob}AAAA',
         "signers.malformed_key"),
        ("# audrey", "signers.malformed"),
        ("", "signers.malformed"),
        ('AUDREY namespaces="apgms-approval-prod" {key}', "signers.malformed"),
    ],
)  # fmt: skip
def test_refused_lines(key: Path, line: str, reason: str) -> None:
    text = line.format(key=public(key), blob=public(key).split()[1])
    with pytest.raises(ApgmsError) as error:
        parse_signer_line(text, "test")
    assert error.value.reason == reason


def test_weak_rsa_key_is_refused(tmp_path: Path) -> None:
    key = make_ssh_key(tmp_path / "key", "-t", "rsa", "-b", "1024")
    with pytest.raises(ApgmsError) as error:
        parse_public_key(public(key), "test")
    assert error.value.reason == "signers.weak_key"


def test_one_rsa_key_has_one_encoding(tmp_path: Path) -> None:
    """Leading zeros would make a second name for the same key."""
    kind, encoded = public(make_ssh_key(tmp_path / "key", *STOCK["rsa"])).split()
    blob = base64.b64decode(encoded)
    head = len(string(b"ssh-rsa"))
    size = int.from_bytes(blob[head : head + 4], "big")
    padded = blob[:head] + string(b"\0" + blob[head + 4 : head + 4 + size])
    padded += blob[head + 4 + size :]
    with pytest.raises(ApgmsError, match="shortest form"):
        parse_public_key(f"{kind} {base64.b64encode(padded).decode()}", "test")


def test_certificates_are_refused(tmp_path: Path, key: Path) -> None:
    user = make_ssh_key(tmp_path / "user")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", key, "-I", "id", "-n", "audrey", user.with_suffix(".pub")],
        check=True,
    )
    certificate = (tmp_path / "user-cert.pub").read_text()
    with pytest.raises(ApgmsError, match="not accepted"):
        parse_public_key(certificate, "test")


def test_rendered_line_gives_the_stock_tool_the_same_times(key: Path) -> None:
    line = line_of(
        public(key),
        f'valid-after="20260302Z",valid-before="202603021000Z",namespaces="{NAMESPACE}"',
    )
    signature = ssh_sign(key, NAMESPACE, b"text")
    inside = datetime(2026, 3, 2, 9, 59, 59, tzinfo=UTC)
    after = datetime(2026, 3, 2, 10, 0, 1, tzinfo=UTC)
    before = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
    assert ssh.verify(b"text", signature, expected(line, inside)) is None
    assert ssh.verify(b"text", signature, expected(line, after)) is not None
    assert ssh.verify(b"text", signature, expected(line, before)) is not None


def test_stock_tool_refuses_a_revoked_key(key: Path) -> None:
    line = line_of(public(key))
    signature = ssh_sign(key, NAMESPACE, b"text")
    assert ssh.verify(b"text", signature, expected(line)) is None
    assert ssh.verify(b"text", signature, expected(line, revoked_keys=[line.key])) is not None


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_cut_signature_is_malformed(key: Path, cut: int) -> None:
    with pytest.raises(ValueError, match=r"SSH signature|cut short"):
        parse_signature(ssh_sign(key, NAMESPACE, b"text")[:-cut])


def test_missing_tool_is_named(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ApgmsError) as error:
        ssh.sign(str(key), NAMESPACE, b"text")
    assert error.value.reason == "ssh.missing"


def test_hidden_bytes_in_the_reserved_field_are_refused(key: Path) -> None:
    """OpenSSH ignores the field and no signature covers it, so it could carry anything."""
    signature = ssh_sign(key, NAMESPACE, b"text")
    data = base64.b64decode(b"".join(signature.splitlines()[1:-1]))
    head = len(b"SSHSIG") + 4 + 4 + int.from_bytes(data[10:14], "big") + 4 + len(NAMESPACE)
    changed = data[:head] + string(b"hidden") + data[head + 4 :]
    body = base64.encodebytes(changed).decode()
    armored = f"-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n".encode()
    with pytest.raises(ValueError, match="reserved field"):
        parse_signature(armored)
