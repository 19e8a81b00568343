# GNU General Public License v3.0+ (see COPYING)
"""Signing keys of a stack: one port, one adapter: a PEM file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..domain.formats.canonical import sha256_hex
from ..errors import ApgmsError, NotBuilt
from ..libraries import ec, ed25519, hashes, serialization
from .files import mend_reading


class Signer(Protocol):
    """A private key that signs: Ed25519 (PureEdDSA) or ECDSA P-256 over SHA-256 (DER)."""

    algorithm: str
    public_pem: bytes
    key_id: str

    def sign(self, message: bytes) -> bytes:
        """Return the detached signature of ``message``."""


def open_signer(address: str, algorithm: str) -> Signer:
    """Return the signer at ``address``, a path of a PEM file or ``awskms:///KEY``.

    :param algorithm: ``ed25519`` or ``ecdsa-p256``: the key must be of this kind
    :raises ApgmsError: ``signer.unreadable``, ``signer.wrong_kind``
    """
    if address.startswith("awskms:"):
        raise NotBuilt("Signing with AWS KMS")
    return KeyFileSigner(Path(address), algorithm)


class KeyFileSigner:
    """A private key in an unencrypted PEM file that only its owner can read."""

    def __init__(self, path: Path, algorithm: str) -> None:
        self._key = _load_private(path)
        self.algorithm = _algorithm(self._key)
        if self.algorithm != algorithm:
            raise ApgmsError(
                "signer.wrong_kind",
                "A signing key is of the wrong kind",
                where=str(path),
                why=f"{algorithm} is needed here, the file holds {self.algorithm}",
                mend=f"make the right key: {_MAKE.get(algorithm, algorithm)} -out {path}",
            )
        self.public_pem = public_pem(self._key.public_key())
        self.key_id = key_id(self.public_pem)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


_MAKE = {
    "ed25519": "openssl genpkey -algorithm ed25519",
    "ecdsa-p256": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
}


def public_pem(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_id(pem: bytes) -> str:
    """Return the name of a public key: the SHA-256 of its DER form, in hexadecimal."""
    key = serialization.load_pem_public_key(pem)
    return sha256_hex(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _algorithm(key: object) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "ecdsa-p256"
    return type(key).__name__


def _load_private(path: Path) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ApgmsError(
            "signer.unreadable",
            "A signing key cannot be read",
            where=str(path),
            why=str(error).splitlines()[0],
            mend=mend_reading(
                path, error, "name a readable PEM file with an unencrypted private key"
            ),
        ) from None
    return key  # type: ignore[return-value]  # its kind is checked by the caller
