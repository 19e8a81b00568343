# GNU General Public License v3.0+ (see COPYING)
"""What an SSH signature says of itself, held against who may sign.

Format: OpenSSH ``PROTOCOL.sshsig``. The cryptographic check is :func:`..ports.ssh.verify`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from ...errors import ApgmsError
from .signers import PublicKey, SignerLine, key_of_blob, ssh_strings


class Refusal(ApgmsError):
    """A signature or a signed statement that does not count; another one may."""

    def __init__(self, reason: str, what: str, where: str, why: str, mend: str) -> None:
        super().__init__(reason, what, where=where, why=why, mend=mend)
        self.where = where
        self.why = why


@dataclass(frozen=True)
class SignatureClaims:
    """The key and the namespace that a signature names."""

    key: PublicKey
    namespace: str


@dataclass(frozen=True)
class Expected:
    """Whose signature is expected, on what purpose, when, under which lists."""

    principal: str
    namespace: str
    now: datetime
    allowed_signers: Collection[SignerLine]
    revoked_keys: Collection[PublicKey]


def parse_signature(armored: bytes) -> SignatureClaims:
    """Return what the signature in an ``ssh-keygen -Y sign`` file says of itself.

    :raises ValueError: where it is not an SSH signature
    """
    match = _ARMOR.fullmatch(armored)
    if not match:
        raise ValueError("it is not an armoured SSH signature")
    data = base64.b64decode(match[1].replace(b"\n", b""), validate=True)
    if data[:10] != b"SSHSIG\x00\x00\x00\x01":
        raise ValueError("it is not an SSH signature of version 1")
    key, namespace, reserved, _hash, _signature = ssh_strings(data[10:], 5)
    if reserved:
        raise ValueError("its reserved field, which no signature covers, is not empty")
    return SignatureClaims(key_of_blob(key), namespace.decode("utf-8"))


def require_claims(armored: bytes, expected: Expected, where: str) -> None:
    """Check everything about a signature but its cryptography.

    :param where: the signature's file, for messages
    :raises Refusal: ``signature.malformed``, ``signature.wrong_namespace``,
        ``signature.revoked``, ``signature.unknown_signer``, ``signature.foreign_key``,
        ``signature.namespace_not_allowed``, ``signature.key_not_yet_valid``,
        ``signature.key_expired``
    """
    try:
        claims = parse_signature(armored)
    except ValueError as error:
        raise refused("malformed", where, str(error)) from None
    if claims.namespace != expected.namespace:
        why = f"it was made in namespace {claims.namespace!r}, not {expected.namespace!r}"
        raise refused("wrong_namespace", where, why)
    if claims.key in expected.revoked_keys:
        raise refused("revoked", where, f"the key {claims.key.fingerprint} is revoked")
    lines = [line for line in expected.allowed_signers if line.key == claims.key]
    _require_owner(lines, claims, expected, where)
    _require_valid(lines, expected, where)


def refused(name: str, where: str, why: str) -> Refusal:
    """Return the refusal ``signature.NAME``."""
    return Refusal(f"signature.{name}", "A signature does not count", where, why, _MENDS[name])


def _require_owner(
    lines: list[SignerLine], claims: SignatureClaims, expected: Expected, where: str
) -> None:
    if not lines:
        why = f"the policy lists no signer with the key {claims.key.fingerprint}"
        raise refused("unknown_signer", where, why)
    if lines[0].principal != expected.principal:
        why = f"the key is {lines[0].principal}'s, the text says {expected.principal}"
        raise refused("foreign_key", where, why)


def _require_valid(lines: list[SignerLine], expected: Expected, where: str) -> None:
    lines = [line for line in lines if expected.namespace in line.namespaces]
    if not lines:
        why = f"the key of {expected.principal} is not for namespace {expected.namespace}"
        raise refused("namespace_not_allowed", where, why)
    started = [line for line in lines if not line.valid_after or line.valid_after <= expected.now]
    if not started:
        why = f"the key of {expected.principal} is valid after {lines[0].valid_after}"
        raise refused("key_not_yet_valid", where, why)
    if all(line.valid_before and line.valid_before <= expected.now for line in started):
        why = f"the key of {expected.principal} was valid before {started[0].valid_before}"
        raise refused("key_expired", where, why)


_ARMOR = re.compile(
    rb"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)-----END SSH SIGNATURE-----\s*"
)
_SIGN_AGAIN = "let the signer sign again with the key that the policy lists for that purpose"
_MENDS = {
    "malformed": "sign again: ssh-keygen -Y sign -n NAMESPACE -f KEY FILE",
    "wrong_namespace": "sign again in the namespace of this kind and stack: docs/approvals.md",
    "revoked": "get the signature of somebody whose key is not revoked",
    "unknown_signer": "get the signature of a signer of the policy, or have the policy changed",
    "foreign_key": _SIGN_AGAIN,
    "namespace_not_allowed": _SIGN_AGAIN,
    "key_not_yet_valid": _SIGN_AGAIN,
    "key_expired": _SIGN_AGAIN,
    "edited": "restore the text that was signed, or have the new text signed",
}
