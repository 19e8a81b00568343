# GNU General Public License v3.0+ (see COPYING)
"""APGMS's own audit log: each row's terminal hash covers the one before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...domain.formats.canonical import sha256_hex
from ...ports.database import columns

if TYPE_CHECKING:
    from ...ports.database import Connection


def append(connection: Connection, actor: str, action: str, payload: dict[str, Any]) -> str:
    """Append one row inside the caller's open transaction; return its terminal hash.

    ``payload_hash`` is the SHA-256 of the compact JSON of ``payload``; ``terminal_hash`` that of
    the previous terminal hash and the payload hash (APGMS's rule; the genesis is empty).

    :raises ApgmsError: ``database.missing_table``
    """
    columns(connection, "audit_log")
    connection.execute("LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE")
    last = connection.execute(
        "SELECT terminal_hash FROM audit_log ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    previous = last[0] if last else None
    compact = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    payload_hash = sha256_hex(compact.encode())
    terminal_hash = sha256_hex(f"{previous or ''}{payload_hash}".encode())
    connection.execute(
        "INSERT INTO audit_log (actor, action, payload_hash, prev_hash, terminal_hash)"
        " VALUES (%s, %s, %s, %s, %s)",
        [actor, action, payload_hash, previous, terminal_hash],
    )
    return terminal_hash
