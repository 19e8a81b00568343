# GNU General Public License v3.0+ (see COPYING)
"""The journal's chain: each row is a canonical document that names the digest of the one before.

The document's bytes are the object ``journal/<seq>``; their SHA-256 is the row's digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..formats.canonical import canonical, parse_canonical, sha256_hex

SCHEMA = "apgms.release/journal/1"
GENESIS = ""
MEMBERS = ("schema", "stack", "seq", "at", "event", "manifest_sha256", "body", "prev_sha256")


class BrokenChain(ValueError):
    """A document is not the row that must stand at its place."""


@dataclass(frozen=True)
class Row:
    """One state change. ``at`` is ISO 8601 in UTC; ``document`` the canonical bytes."""

    stack: str
    seq: int
    at: str
    event: str
    manifest_sha256: str | None
    body: dict[str, Any]
    prev_sha256: str
    document: bytes

    @property
    def sha256(self) -> str:
        """The row's digest, which the next row names."""
        return sha256_hex(self.document)

    @property
    def key(self) -> str:
        """The row's object key."""
        return object_key(self.seq)


def object_key(seq: int) -> str:
    """Return the key of the row ``seq`` in the object store."""
    return f"journal/{seq:016d}"


def next_row(
    last: Row | None,
    *,
    stack: str,
    at: str,
    event: str,
    body: dict[str, Any],
    manifest_sha256: str | None,
) -> Row:
    """Return the row that follows ``last`` (None: the first).

    :raises ValueError: where ``body`` has no canonical form
    """
    members = {
        "schema": SCHEMA,
        "stack": stack,
        "seq": last.seq + 1 if last else 1,
        "at": at,
        "event": event,
        "manifest_sha256": manifest_sha256,
        "body": body,
        "prev_sha256": last.sha256 if last else GENESIS,
    }
    return parse(canonical(members))


def parse(document: bytes) -> Row:
    """Return the row that ``document`` holds.

    :raises BrokenChain: where it is not a canonical journal document
    """
    try:
        members = parse_canonical(document)
    except ValueError as error:
        raise BrokenChain(f"not a journal row: {error}") from None
    if not isinstance(members, dict) or set(members) != set(MEMBERS):
        raise BrokenChain(f"not a journal row: its members are not {', '.join(MEMBERS)}")
    if members["schema"] != SCHEMA:
        raise BrokenChain(f"schema {members['schema']!r}, expected {SCHEMA!r}")
    values = {name: members[name] for name in MEMBERS if name != "schema"}
    _require_types(values)
    return Row(**values, document=document)


def require_link(last: Row | None, row: Row) -> None:
    """Check that ``row`` follows ``last`` (None: is the first).

    :raises BrokenChain: where sequence, stack or digest do not follow
    """
    expected = (last.seq + 1, last.stack, last.sha256) if last else (1, row.stack, GENESIS)
    found = (row.seq, row.stack, row.prev_sha256)
    if found != expected:
        raise BrokenChain(
            f"row {row.seq} of stack {row.stack} names {row.prev_sha256 or 'no row'} before it;"
            f" expected row {expected[0]} of stack {expected[1]} after {expected[2] or 'no row'}"
        )


_TYPES: dict[str, type | tuple[type, ...]] = {
    "stack": str,
    "seq": int,
    "at": str,
    "event": str,
    "manifest_sha256": (str, type(None)),
    "body": dict,
    "prev_sha256": str,
}


def _require_types(values: dict[str, Any]) -> None:
    for name, kind in _TYPES.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise BrokenChain(f"not a journal row: {name} is {values[name]!r}")
