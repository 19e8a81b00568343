# GNU General Public License v3.0+ (see COPYING)
"""The key that reconciliation pass tokens are issued with, in the form that APGMS keeps it."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from ..errors import ApgmsError
from ..libraries import ed25519
from .files import mend_reading

SEED_BYTES, SECRET_BYTES = 32, 64


def open_rpt_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Return the Ed25519 key in a file: base64 of the 32-byte seed or of the 64-byte secret.

    :raises ApgmsError: ``rpt_key.unreadable``
    """
    try:
        material = base64.b64decode(path.read_bytes().strip(), validate=True)
    except (OSError, binascii.Error) as error:
        raise _unreadable(path, error) from None
    if len(material) not in (SEED_BYTES, SECRET_BYTES):
        why = f"it holds {len(material)} bytes, not 32 (seed) or 64 (secret)"
        raise _unreadable(path, ValueError(why))
    return ed25519.Ed25519PrivateKey.from_private_bytes(material[:SEED_BYTES])


def public_base64(key: ed25519.Ed25519PrivateKey) -> str:
    """Return the raw public key in base64, as policies pin it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _unreadable(path: Path, error: Exception) -> ApgmsError:
    return ApgmsError(
        "rpt_key.unreadable",
        "The key that tokens are issued with cannot be read",
        where=str(path),
        why=str(error),
        mend=mend_reading(
            path,
            error,
            f"openssl rand -base64 32 > {path}  # for a sandbox; then pin its public key",
        ),
    )
