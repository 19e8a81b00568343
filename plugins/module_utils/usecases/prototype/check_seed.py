# GNU General Public License v3.0+ (see COPYING)
"""Recompute a seeded ledger independently of the code that wrote it, and name each mismatch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...libraries import cryptography_exceptions, ed25519
from ..acts.progress import Progress
from .check_seed_rules import RULES, Rule

if TYPE_CHECKING:
    from ...ports.database import Connection

ROWS_AT_ONCE = 2_000
SIGNATURE_RULE = Rule(
    "tokens.signature",
    "rpt_tokens",
    "SELECT id, payload_c14n, signature FROM rpt_tokens ORDER BY id",
)


@dataclass(frozen=True)
class Expectation:
    """What the ledger is held against."""

    entities: int
    period_ids: Sequence[str]
    catalog: bytes
    """The rates catalog file."""
    rpt_keys: Mapping[str, str]
    """The pinned public keys of the issuer: raw 32 bytes in base64."""


@dataclass(frozen=True)
class Mismatch:
    """A row that breaks a rule."""

    rule: str
    table: str
    row: str
    expected: str | None
    found: str | None


@dataclass(frozen=True)
class Checked:
    """The verdict: broken rows by rule, and the first of them in full."""

    rules: dict[str, int]
    """Every rule with how many rows break it."""
    mismatches: list[Mismatch]

    @property
    def total(self) -> int:
        """How many mismatches there are."""
        return sum(self.rules.values())

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as data."""
        return {
            "status": "fail" if self.total else "pass",
            "rules": self.rules,
            "mismatch_total": self.total,
            "mismatches": [asdict(mismatch) for mismatch in self.mismatches],
        }


def check_seed(
    connection: Connection,
    expectation: Expectation,
    *,
    limit: int,
    progress: Progress | None = None,
) -> Checked:
    """Apply every rule; reads only.

    :param limit: how many mismatches are listed for each rule; all are counted
    """
    counts: dict[str, int] = {}
    listed: list[Mismatch] = []
    parameters = {
        "catalog": expectation.catalog.decode(),
        "entities": expectation.entities,
        "periods": list(expectation.period_ids),
    }
    progress = progress or Progress(lambda line: None)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for rule in RULES:
            broken = broken_rows(connection, rule, parameters, limit)
            counts[rule.name] = broken[0]
            listed += broken[1]
            progress.done("Recompute", len(counts), len(RULES) + 1, "rules")
        forged = list(_forged(connection, expectation.rpt_keys))
    counts[SIGNATURE_RULE.name] = len(forged)
    return Checked(counts, listed + forged[:limit])


def broken_rows(
    connection: Connection, rule: Rule, parameters: Mapping[str, object], limit: int
) -> tuple[int, list[Mismatch]]:
    """Return how many rows break a rule, and the first ``limit`` of them."""
    query = (
        f"WITH broken (row, expected, found) AS ({rule.query})"  # noqa: S608
        f" SELECT row, expected, found, count(*) OVER () FROM broken LIMIT {limit:d}"
    )
    rows = connection.execute(query.encode(), parameters).fetchall()
    listed = [Mismatch(rule.name, rule.table, *row[:3]) for row in rows]
    return (rows[0][3] if rows else 0), listed


def _forged(connection: Connection, rpt_keys: Mapping[str, str]) -> Iterator[Mismatch]:
    keys = [
        ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(raw))
        for raw in rpt_keys.values()
    ]
    with connection.cursor("check_seed_tokens") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        for key, message, signature in cursor.execute(SIGNATURE_RULE.query):
            if not _verifies(message, signature, keys):
                yield Mismatch(
                    SIGNATURE_RULE.name,
                    SIGNATURE_RULE.table,
                    f"id {key}",
                    f"a signature by {', '.join(rpt_keys) or 'a pinned key'}",
                    signature,
                )


def _verifies(
    message: str | None, signature: str, keys: Iterable[ed25519.Ed25519PublicKey]
) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
    except binascii.Error:
        return False
    for key in keys:
        try:
            key.verify(raw, (message or "").encode())
        except cryptography_exceptions.InvalidSignature:
            continue
        return True
    return False
