# GNU General Public License v3.0+ (see COPYING)
"""Mirrored rows: how the ledger goes back without a row of it being changed.

A mirrored row is appended to the chain of its originals, with the sum of their amounts negated. Its
``transfer_uuid`` and ``bank_receipt_hash`` follow from its originals, so that the deployment's own
unique constraints too refuse to mirror the same rows twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from .chain import Chain, Link, next_link


class Original(NamedTuple):
    """A row of ``owa_ledger`` to mirror, with the last row of its chain (its tail)."""

    abn: str
    tax_type: str
    period_id: str
    id: int
    transfer_uuid: str
    amount_cents: int
    tail_balance_cents: int
    tail_hash: str | None


class MirrorRow(NamedTuple):
    """A row to append to ``owa_ledger``, in the order of its columns."""

    abn: str
    tax_type: str
    period_id: str
    transfer_uuid: str
    amount_cents: int
    balance_after_cents: int
    bank_receipt_hash: str
    prev_hash: str | None
    hash_after: str


class Mirror(NamedTuple):
    """A mirrored row and the ids of the rows it mirrors."""

    row: MirrorRow
    original_ids: list[int]


def mirrors(originals: Iterable[Original], *, net: bool) -> Iterator[Mirror]:
    """Yield what to append for ``originals``.

    :param originals: grouped by chain, newest first within a chain
    :param net: one row for each chain instead of one for each original; none where the sum is zero
    """
    for _key, chain in groupby(originals, key=lambda row: row[:3]):
        yield from _of_chain(chain, net)


def mirror_uuid(digest: bytes) -> str:
    """Return the UUID (RFC 9562, version 8) that a mirror's digest gives."""
    text = digest[:16].hex()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-8{text[17:20]}-{text[20:]}"


def _of_chain(chain: Iterator[Original], net: bool) -> Iterator[Mirror]:
    tail: Link | None = None
    for rows in [list(chain)] if net else ([row] for row in chain):
        tail = tail or Link(0, rows[0].tail_balance_cents, None, None, rows[0].tail_hash)
        amount = -sum(row.amount_cents for row in rows)
        if net and amount == 0:
            return
        digest = _digest(rows)
        tail = next_link(tail, amount, digest.hex())
        yield Mirror(_row(Chain(*rows[0][:3]), digest, tail), [row.id for row in rows])


def _digest(rows: list[Original]) -> bytes:
    digest = hashlib.sha256(b"apgms.release/mirror/1\n")
    for row in rows:
        digest.update(row.transfer_uuid.encode() + b"\n")
    return digest.digest()


def _row(chain: Chain, digest: bytes, link: Link) -> MirrorRow:
    return MirrorRow(
        *chain,
        transfer_uuid=mirror_uuid(digest),
        amount_cents=link.amount_cents,
        balance_after_cents=link.balance_after_cents,
        bank_receipt_hash=digest.hex(),
        prev_hash=link.prev_hash,
        hash_after=str(link.hash_after),
    )
