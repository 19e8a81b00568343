# GNU General Public License v3.0+ (see COPYING)
"""Mutations of bytes, JSON documents and SSH signatures, and a signer that needs no process."""

from __future__ import annotations

import base64
import copy
import hashlib
import random
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)

STRINGS = ("", " ", "x", "0", "*", "prod", "proto", "ab" * 32, "é", "\u0000", "A" * 600, "null")
VALUES: tuple[Any, ...] = (*STRINGS, None, True, False, 0, 1, -1, 2**53 - 1, [], {}, ["x"])


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` with one to three places changed, cut, doubled or swapped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, upto = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif kind == 2:
            del changed[at : min(upto, at + 40)]
        elif kind == 3:
            changed[at:at] = changed[at : min(upto, at + 40)]
        else:
            changed[at:] = b""
    return bytes(changed)


def mutate_document(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with one member, at any depth, replaced, removed, renamed or added."""
    changed = copy.deepcopy(document)
    place = rng.choice(_objects(changed))
    name = rng.choice(sorted(place)) if place else "x"
    kind = rng.randrange(6)
    if kind == 0:
        place.pop(name, None)
    elif kind == 1:
        place[rng.choice(STRINGS) or "y"] = rng.choice(VALUES)
    elif kind == 2 and isinstance(place.get(name), str):
        place[name] = mutate_bytes(rng, place[name].encode()).decode("utf-8", "replace")
    else:
        place[name] = rng.choice(VALUES)
    return changed


def _objects(value: Any) -> list[dict[str, Any]]:
    found = [value] if isinstance(value, dict) else []
    children = value.values() if isinstance(value, dict) else value
    for child in children if isinstance(children, list) or found else []:
        if isinstance(child, dict | list):
            found += _objects(child)
    return found


def bytes_of(document: Any) -> bytes:
    """Return the canonical bytes of a document, or some others where it has none."""
    try:
        return canonical(document)
    except ValueError:
        return repr(document).encode()


class Pen:
    """An Ed25519 SSH key that signs as ``ssh-keygen -Y sign`` does (PROTOCOL.sshsig)."""

    def __init__(self, key: Path) -> None:
        loaded = load_ssh_private_key(key.read_bytes(), password=None)
        assert isinstance(loaded, ed25519.Ed25519PrivateKey)
        self._key = loaded
        self.blob = _string(b"ssh-ed25519") + _string(loaded.public_key().public_bytes_raw())

    def sign(self, namespace: str, message: bytes) -> bytes:
        """Return the armoured signature."""
        return armor(self.parts(namespace, message))

    def parts(self, namespace: str, message: bytes) -> list[bytes]:
        """Return key, namespace, reserved, hash name and signature, for :func:`armor`."""
        rest = [namespace.encode(), b"", b"sha512"]
        digest = hashlib.sha512(message).digest()
        signed = b"SSHSIG" + b"".join(map(_string, [*rest, digest]))
        made = _string(b"ssh-ed25519") + _string(self._key.sign(signed))
        return [self.blob, *rest, made]


def armor(parts: list[bytes], version: int = 1) -> bytes:
    """Return the armoured form of a signature's parts."""
    data = b"SSHSIG" + struct.pack(">I", version) + b"".join(map(_string, parts))
    body = base64.encodebytes(data).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n".encode()


def meaning(armored: bytes) -> bytes:
    """Return what an armoured signature holds, however it is wrapped; itself where it is none."""
    lines = armored.strip().splitlines()
    try:
        return base64.b64decode(b"".join(lines[1:-1]), validate=True) + lines[0] + lines[-1]
    except (ValueError, IndexError):
        return armored


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
