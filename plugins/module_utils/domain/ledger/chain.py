# GNU General Public License v3.0+ (see COPYING)
"""The hash chain of owa_ledger: one chain per (abn, tax_type, period_id), ordered by id.

``hash_after = hex(sha256(utf8(prev_hash + bank_receipt_hash + str(balance_after_cents))))``, NULL
counts as the empty string, and the first row has no previous hash. Amounts and balances are cents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

NULL_HASH = "null_hash"
LITERAL_RECEIPT = "literal_receipt"
MD5 = "md5"
HASH_MISMATCH = "hash_mismatch"
BROKEN_LINK = "broken_link"
BALANCE_MISMATCH = "balance_mismatch"
DUPLICATE_TRANSFER = "duplicate_transfer"
DUPLICATE_RECEIPT = "duplicate_receipt"
KINDS = (
    NULL_HASH,
    LITERAL_RECEIPT,
    MD5,
    HASH_MISMATCH,
    BROKEN_LINK,
    BALANCE_MISMATCH,
    DUPLICATE_TRANSFER,
    DUPLICATE_RECEIPT,
)
"""How a row can deviate. The first three are known from real deployments."""


class Chain(NamedTuple):
    """The key of one chain."""

    abn: str
    tax_type: str
    period_id: str


@dataclass(frozen=True)
class Link:
    """What the chain rule reads of one ledger row; amounts in cents."""

    amount_cents: int
    balance_after_cents: int
    bank_receipt_hash: str | None
    prev_hash: str | None
    hash_after: str | None


def hash_after(prev_hash: str | None, receipt: str | None, balance_after_cents: int) -> str:
    """Return the ``hash_after`` that the chain rule demands."""
    message = f"{prev_hash or ''}{receipt or ''}{balance_after_cents}"
    return hashlib.sha256(message.encode()).hexdigest()


def next_link(previous: Link | None, amount_cents: int, receipt: str | None) -> Link:
    """Return the row that continues a chain with ``amount_cents`` (+ credit, - debit)."""
    balance = (previous.balance_after_cents if previous else 0) + amount_cents
    prev_hash = previous.hash_after if previous else None
    return Link(amount_cents, balance, receipt, prev_hash, hash_after(prev_hash, receipt, balance))


def deviations(link: Link, previous: Link | None) -> tuple[str, ...]:
    """Return the kinds in which a row deviates from the rule; none for a valid row.

    :param previous: the row before it in the same chain, None for the first
    """
    before_hash = previous.hash_after if previous else None
    before_balance = previous.balance_after_cents if previous else 0
    found = [] if (kind := _hash_deviation(link)) is None else [kind]
    if (link.prev_hash or "") != (before_hash or ""):
        found.append(BROKEN_LINK)
    if not _adds_up(before_balance, link):
        found.append(BALANCE_MISMATCH)
    return tuple(found)


def _adds_up(before: int, link: Link) -> bool:
    """Return whether the balances differ by the amount; where one is NULL they do not."""
    read: tuple[int | None, ...] = (before, link.amount_cents, link.balance_after_cents)
    return None not in read and before + link.amount_cents == link.balance_after_cents


def _hash_deviation(link: Link) -> str | None:
    found = link.hash_after
    if found is None:
        return NULL_HASH
    if found == hash_after(link.prev_hash, link.bank_receipt_hash, link.balance_after_cents):
        return None
    if found == hash_after(link.prev_hash, "rcpt", link.balance_after_cents):
        return LITERAL_RECEIPT
    if found == _md5(f"{link.prev_hash or ''}:{link.balance_after_cents}"):
        return MD5
    return HASH_MISMATCH


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
