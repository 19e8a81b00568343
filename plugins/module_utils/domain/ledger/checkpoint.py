# GNU General Public License v3.0+ (see COPYING)
"""The signed head of the ledger log: C2SP tlog-checkpoint, signed-note and tlog-cosignature v1.

A checkpoint is three lines (origin, tree size, base64 of the root hash), an empty line and
signature lines ``— NAME base64(key id || signature)``. The log signs the three lines with Ed25519;
an auditor cosigns them together with a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from ...libraries import cryptography_exceptions, ed25519, serialization
from .tree import HASH_BYTES

LOG_SIGNATURE = b"\x01"
COSIGNATURE = b"\x04"
KEY_ID_BYTES = 4
TIME_BYTES = 8
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Checkpoint:
    """The parsed head of a log."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> bytes:
        """The three lines that are signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\n".encode()


@dataclass(frozen=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    payload: bytes

    @property
    def line(self) -> bytes:
        """The line as it stands in the note, with its newline."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.payload).decode()}\n".encode()


def parse(note: bytes) -> tuple[Checkpoint, list[Signature]]:
    """Return the checkpoint of a signed note and its signature lines, none of them verified.

    :raises ValueError: where the note is not a signed checkpoint in its one exact form
    """
    body, separator, signatures = note.partition(b"\n\n")
    lines = body.decode().split("\n")
    if not separator or len(lines) != 3:
        raise ValueError("a checkpoint is three lines, an empty line, and signatures")
    origin, size, root = lines
    checkpoint = Checkpoint(origin, _size(size), _root(root))
    return checkpoint, [_signature(line) for line in _signature_lines(signatures)]


def sign(checkpoint: Checkpoint, public_pem: bytes, sign_message: Sign) -> bytes:
    """Return the note of a checkpoint with the log's signature; its key is named for the origin."""
    signature = Signature(
        checkpoint.origin,
        note_key_id(checkpoint.origin, LOG_SIGNATURE, public_pem),
        sign_message(checkpoint.body),
    )
    return checkpoint.body + b"\n" + signature.line


def cosign(note: bytes, name: str, public_pem: bytes, time: int, sign_message: Sign) -> bytes:
    """Return the cosignature line of ``name`` on a checkpoint.

    :param time: when the cosigner saw it, in seconds since 1970 UTC
    """
    checkpoint, _signatures = parse(note)
    signature = sign_message(_cosigned_message(checkpoint, time))
    payload = time.to_bytes(TIME_BYTES, "big") + signature
    return Signature(name, note_key_id(name, COSIGNATURE, public_pem), payload).line


def verify(note: bytes, origin: str, public_pem: bytes) -> Checkpoint:
    """Return the checkpoint of a note that the log's key signed.

    :raises ValueError: where the note is malformed, of another origin, or not signed by the key
    """
    checkpoint, signatures = parse(note)
    if checkpoint.origin != origin:
        raise ValueError(f"the origin is {checkpoint.origin!r}, not {origin!r}")
    wanted = note_key_id(origin, LOG_SIGNATURE, public_pem)
    for signature in signatures:
        if (signature.name, signature.key_id) == (origin, wanted):
            _check(public_pem, signature.payload, checkpoint.body)
            return checkpoint
    raise ValueError(f"no signature of the key {origin}+{wanted.hex()} stands on it")


def verify_cosignature(note: bytes, line: bytes, name: str, public_pem: bytes) -> int:
    """Return the time (seconds since 1970 UTC) of a cosignature on a checkpoint.

    :raises ValueError: where it is malformed, by another cosigner, or does not verify
    """
    checkpoint, _signatures = parse(note)
    signature = _signature(line.decode().removesuffix("\n"))
    if (signature.name, signature.key_id) != (name, note_key_id(name, COSIGNATURE, public_pem)):
        raise ValueError(f"the cosignature is by {signature.name}+{signature.key_id.hex()}")
    time = int.from_bytes(signature.payload[:TIME_BYTES], "big")
    _check(public_pem, signature.payload[TIME_BYTES:], _cosigned_message(checkpoint, time))
    return time


def note_key_id(name: str, kind: bytes, public_pem: bytes) -> bytes:
    """Return the key id of a note: the first 4 bytes of SHA-256(name, newline, kind, key)."""
    raw = _public_key(public_pem).public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return hashlib.sha256(name.encode() + b"\n" + kind + raw).digest()[:KEY_ID_BYTES]


def _cosigned_message(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n".encode() + checkpoint.body


def _check(public_pem: bytes, signature: bytes, message: bytes) -> None:
    try:
        _public_key(public_pem).verify(signature, message)
    except cryptography_exceptions.InvalidSignature:
        raise ValueError("the signature does not verify") from None


def _public_key(pem: bytes) -> ed25519.Ed25519PublicKey:
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError(f"the key is not Ed25519 but {type(key).__name__}")
    return key


def _size(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text):
        raise ValueError(f"{text!r} is not a tree size")
    return int(text)


def _root(text: str) -> bytes:
    root = _base64(text)
    if len(root) != HASH_BYTES:
        raise ValueError(f"a root hash has {HASH_BYTES} bytes, not {len(root)}")
    return root


def _signature_lines(block: bytes) -> list[str]:
    lines = block.decode().split("\n")
    if lines.pop() or not lines:
        raise ValueError("signature lines end with a newline, and there is at least one")
    return lines


def _signature(line: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a signature line: {line[:80]!r}")
    data = _base64(match[2])
    return Signature(match[1], data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"not base64: {text[:80]!r}") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError(f"not in the one form of base64: {text[:80]!r}")
    return data
