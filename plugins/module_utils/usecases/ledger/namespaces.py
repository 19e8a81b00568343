# GNU General Public License v3.0+ (see COPYING)
"""Totals and digests of a snapshot by namespace, and the plain files that a bundle has of them.

A namespace is a tax type in lower case. Its file, ``ledger/<namespace>.json``, says how many rows it
has, their balance, and a digest of them; it holds no rows. ``ledger_hashes.json`` names the files.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

from ...domain.formats.canonical import canonical, sha256_hex
from ...domain.ledger.leaf import values
from .log import LogSnapshot
from .rows import PeriodTotal

NAMESPACE_SCHEMA = "apgms.release/ledger-namespace/1"


class Namespaces:
    """Totals and digests by namespace, continued from the snapshot before.

    ``rows_sha256`` is the SHA-256 of the digest before (nothing, for the first) and the leaf hashes
    of the snapshot's rows of this namespace, in order of position.
    """

    def __init__(self, before: Mapping[str, Any], columns: Sequence[str]) -> None:
        self._before = before
        self._column = columns.index("tax_type")
        self._digests: dict[str, Any] = {}

    def add(self, rows: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Add rows, as COPY text, with their leaf hashes."""
        column = self._column
        found: defaultdict[str, list[bytes]] = defaultdict(list)
        for row, leaf in zip(rows, leaves, strict=True):
            found[_namespace_of(row.split(b"\t", column + 1)[column])].append(leaf)
        for name, hashes in found.items():
            self._digest(name).update(b"".join(hashes))

    def document(self, totals: Iterable[PeriodTotal]) -> dict[str, Any]:
        """Return what is known of each namespace now, with the totals of the rows that were added.

        Amounts are decimal strings of cents.
        """
        by_name: defaultdict[str, list[PeriodTotal]] = defaultdict(list)
        for total in totals:
            by_name[namespace(total.tax_type)].append(total)
        return {
            name: self._namespace(name, by_name[name])
            for name in sorted(self._before.keys() | by_name.keys())
        }

    def _digest(self, name: str) -> Any:
        if name not in self._digests:
            before = self._before.get(name, {}).get("rows_sha256", "")
            self._digests[name] = hashlib.sha256(bytes.fromhex(before))
        return self._digests[name]

    def _namespace(self, name: str, added: list[PeriodTotal]) -> dict[str, Any]:
        before = self._before.get(name, {})
        digest = self._digests.get(name)
        rows = sum(total.rows for total in added)
        amount = sum(total.amount_cents for total in added)
        return {
            "rows": int(before.get("rows", 0)) + rows,
            "balance_cents": str(int(before.get("balance_cents", 0)) + amount),
            "rows_sha256": digest.hexdigest() if digest else before["rows_sha256"],
            "added": {
                "rows": rows,
                "amount_cents": str(amount),
                "chains": sum(total.chains for total in added),
            },
            "periods": _periods(before.get("periods", {}), added),
        }


class Totals:
    """The totals of archived rows by tax type and period, as the database gives them."""

    def __init__(self, columns: Sequence[str]) -> None:
        names = ("tax_type", "period_id", "abn", "amount_cents")
        self._places = [columns.index(name) for name in names]
        self._rows: defaultdict[tuple[bytes, ...], int] = defaultdict(int)
        self._amounts: defaultdict[tuple[bytes, ...], int] = defaultdict(int)

    def add(self, rows: Iterable[bytes]) -> None:
        """Add rows, as COPY text."""
        for row in rows:
            fields = row.rstrip(b"\n").split(b"\t")
            *chain, amount = (fields[place] for place in self._places)
            self._rows[tuple(chain)] += 1
            self._amounts[tuple(chain)] += int(amount)

    def found(self) -> list[PeriodTotal]:
        """Return the totals of the rows added so far, one for each chain."""
        found = []
        for chain, count in self._rows.items():
            tax_type, period_id = map(_value, chain[:2])
            found.append(PeriodTotal(tax_type, period_id, count, self._amounts[chain], 1))
        return found


def namespace(tax_type: str | None) -> str:
    """Return the namespace of a tax type: lower case, anything unfit for a file name escaped."""
    return quote((tax_type or "").lower(), safe="") or "none"


@cache
def _namespace_of(tax_type: bytes) -> str:
    """Return the namespace of a tax type as COPY prints it."""
    return namespace(_value(tax_type))


def _value(field: bytes) -> Any:
    """Return the value of a field of COPY text."""
    return values(field)[0]


def namespace_files(snapshot: LogSnapshot) -> dict[str, bytes]:
    """Return the contents of ``ledger/<namespace>.json`` by namespace."""
    sizes = [str(snapshot.previous_size), str(snapshot.tree_size)]
    common = {
        "schema": NAMESPACE_SCHEMA,
        "origin": snapshot.origin,
        "tree_size": sizes[1],
        "root": snapshot.root.hex(),
        "tree_range": sizes,
    }
    return {
        name: canonical({**common, "namespace": name, **entry})
        for name, entry in snapshot.namespaces.items()
    }


def hashes_file(files: Mapping[str, bytes]) -> bytes:
    """Return ``ledger_hashes.json``: the SHA-256 of each namespace's file."""
    return canonical({name: sha256_hex(data) for name, data in files.items()})


def _periods(before: Mapping[str, Any], added: list[PeriodTotal]) -> dict[str, Any]:
    periods = {period_id: dict(entry) for period_id, entry in before.items()}
    for total in added:
        entry = periods.setdefault(total.period_id, {"rows": 0, "balance_cents": "0"})
        entry["rows"] += total.rows
        entry["balance_cents"] = str(int(entry["balance_cents"]) + total.amount_cents)
    return periods
