# GNU General Public License v3.0+ (see COPYING)
"""The ledger counted again: chain rule, tree and balances, written a second time.

Nothing here is shared with what snapshots, releases and rollbacks compute with, so that a mistake
there does not vouch for itself. The formats are those of APGMS (chain rule) and RFC 6962 (tree).
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

ChainKey = tuple[str, str, str]
ACCEPTED = frozenset({"no hash", "literal receipt", "md5"})
"""Deviations known from real deployments: told of, not held against the ledger."""


class Head(NamedTuple):
    """What a checkpoint says; the root as bytes."""

    origin: str
    size: int
    root: bytes
    signed: bytes
    signatures: list[bytes]


class Entry(NamedTuple):
    """What the chain rule reads of a row. Amounts in cents."""

    id: int
    amount: int | None
    balance: int | None
    receipt: str | None
    prev: str | None
    hash: str | None


def read_checkpoint(note: bytes) -> Head:
    """Return what a C2SP checkpoint says, its signatures unverified.

    :raises ValueError: where it is not one
    """
    text, _blank, tail = note.partition(b"\n\n")
    origin, size, root = text.decode().split("\n")
    signatures = [_signature(line.decode()) for line in tail.splitlines()]
    return Head(origin, int(size), b64decode(root), text + b"\n", signatures)


def _signature(line: str) -> bytes:
    """Return the signature of a line ``- name key-id-and-signature``."""
    parts = line.split(" ")
    if len(parts) != 3:
        raise ValueError("a signature line does not have three parts")
    return b64decode(parts[2])[4:]


class Tree:
    """The root over any number of leaves: perfect subtrees, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def add(self, entry: bytes) -> None:
        """Append one log entry."""
        width, value = 1, hashlib.sha256(b"\0" + entry).digest()
        while self._peaks and self._peaks[-1][0] == width:
            value = hashlib.sha256(b"\1" + self._peaks.pop()[1] + value).digest()
            width *= 2
        self._peaks.append((width, value))
        self.size += 1

    def root(self) -> bytes:
        """Return the root of what was appended."""
        if not self._peaks:
            return hashlib.sha256().digest()
        value = self._peaks[-1][1]
        for _height, peak in reversed(self._peaks[:-1]):
            value = hashlib.sha256(b"\1" + peak + value).digest()
        return value


def fault(entry: Entry, last: Entry | None) -> str | None:
    """Return what is wrong with a row that follows ``last`` in its chain; None where nothing is."""
    before = last.balance if last else 0
    if entry.amount is None or before is None or entry.balance != before + entry.amount:
        return "wrong balance"
    if (entry.prev or "") != ((last.hash if last else "") or ""):
        return "wrong link"
    return _hash_fault(entry)


def _hash_fault(entry: Entry) -> str | None:
    if entry.hash is None:
        return "no hash"
    before = entry.prev or ""
    if entry.hash == _sha256(before + (entry.receipt or "") + str(entry.balance)):
        return None
    if entry.hash == _sha256(before + "rcpt" + str(entry.balance)):
        return "literal receipt"
    legacy = hashlib.md5(f"{before}:{entry.balance}".encode(), usedforsecurity=False)
    return "md5" if entry.hash == legacy.hexdigest() else "wrong hash"


class Balances:
    """Sums of amounts by chain, in cents."""

    def __init__(self) -> None:
        self._cents: defaultdict[ChainKey, int] = defaultdict(int)

    def add(self, chain: ChainKey, cents: int) -> None:
        """Add one row."""
        self._cents[chain] += cents

    def digest(self, further: Iterable[tuple[ChainKey, int]] = ()) -> str:
        """Return SHA-256 over ``abn,tax_type,period_id,cents`` lines of chains not at zero.

        :param further: rows to count besides
        """
        sums = dict(self._cents)
        for chain, cents in further:
            sums[chain] = sums.get(chain, 0) + cents
        standing = sorted((chain, cents) for chain, cents in sums.items() if cents)
        return _sha256("".join(f"{','.join(chain)},{cents}\n" for chain, cents in standing))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
