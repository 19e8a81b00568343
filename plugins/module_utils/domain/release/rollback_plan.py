# GNU General Public License v3.0+ (see COPYING)
"""The plan of a rollback: everything it will do, as one document with one digest.

The document is JSON lines, each canonical; its SHA-256 is the plan digest that the real run must
name. The head names the ledger's tree, so that any row that arrives later makes the plan stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..formats.canonical import canonical
from .image import flat_line
from .obligation import Claim
from .restoration import StateChange

SCHEMA = "apgms.release/rollback-plan/1"


class ChainChange(NamedTuple):
    """One entity, tax type and period whose ledger goes back. Amounts are cents.

    ``credits_cents`` and ``debits_cents`` are the sums of the positive and the negative amounts
    among the ``originals`` rows that are mirrored; ``entries`` rows are appended for them.
    """

    abn: str
    tax_type: str
    period_id: str
    balance_cents: int
    target_balance_cents: int
    originals: int
    credits_cents: int
    debits_cents: int
    entries: int

    def document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        texts = {
            name: str(value) for name, value in self._asdict().items() if name.endswith("_cents")
        }
        return {"kind": "chain", **self._asdict(), **texts}


@dataclass(frozen=True)
class Plan:
    """A rollback, before and after it is done."""

    stack: str
    target_sha256: str
    target_tree_size: int
    tree_size: int
    root: str
    """RFC 6962 root of the ledger's tree before the rollback, hexadecimal."""
    net: bool
    """One row for each chain, since the deployment allows one negative row per period."""
    chains: tuple[ChainChange, ...]
    states: tuple[StateChange, ...]
    obligations: tuple[Claim, ...]
    """Accepted submissions of undone releases: to be amended at the authority."""
    standing_payouts: tuple[int, int]
    """Number and sum of the payouts of standing releases that were booked after the target's
    snapshot, and stay: the target is the release as the authority acknowledged it."""
    undone: tuple[str, ...]
    """Manifest checksums of the releases that this rollback goes behind."""
    balances_sha256: str
    """Of the target's balances, see :func:`balances_digest`."""

    @property
    def empty(self) -> bool:
        """Whether the ledger, periods and tokens are the target's already."""
        return not (self.chains or self.states or self.undone)

    def totals(self) -> dict[str, Any]:
        """Return counts, and sums of cents as decimal strings."""
        return {
            "chains": len(self.chains),
            "originals": sum(chain.originals for chain in self.chains),
            "entries": sum(chain.entries for chain in self.chains),
            "credits_cents": str(sum(chain.credits_cents for chain in self.chains)),
            "debits_cents": str(sum(chain.debits_cents for chain in self.chains)),
            "periods": sum(change.table == "periods" for change in self.states),
            "tokens": sum(change.table == "rpt_tokens" for change in self.states),
            "obligations": len(self.obligations),
            "obligations_cents": str(sum(claim.amount_cents for claim in self.obligations)),
            "standing_payouts": self.standing_payouts[0],
            "standing_payouts_cents": str(self.standing_payouts[1]),
            "undone_releases": len(self.undone),
        }

    def head(self) -> dict[str, Any]:
        """Return the first line: what is rolled back to what."""
        return {
            "kind": "rollback",
            "schema": SCHEMA,
            "stack": self.stack,
            "target_sha256": self.target_sha256,
            "target_tree_size": self.target_tree_size,
            "tree_size": self.tree_size,
            "root": self.root,
            "net": self.net,
            "balances_sha256": self.balances_sha256,
            "undone": list(self.undone),
            "totals": self.totals(),
        }

    def lines(self) -> Iterator[bytes]:
        """Yield the plan's document."""
        yield canonical(self.head()) + b"\n"
        for chain in self.chains:
            yield flat_line(chain.document())
        for change in self.states:
            yield flat_line(change.document())
        for claim in self.obligations:
            yield flat_line(claim.obligation())

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the document, hexadecimal."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line)
        return digest.hexdigest()


def balances_digest(balances: Iterable[tuple[str, str, str, int]]) -> str:
    """Return the SHA-256 over ``abn,tax_type,period_id,cents`` lines, hexadecimal.

    :param balances: in the order of their UTF-8 bytes; a chain at zero counts as one that is not
    """
    digest = hashlib.sha256()
    for abn, tax_type, period_id, cents in balances:
        if cents:
            digest.update(f"{abn},{tax_type},{period_id},{cents}\n".encode())
    return digest.hexdigest()
