# GNU General Public License v3.0+ (see COPYING)
"""Verify the RPT rows of a stack: the tokens of its periods in READY_RPT, in one streaming pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.ledger.chain import Chain
from ...domain.tax.rpt import USABLE, Checked, Period, Rules, Token, check, load_keys
from ...errors import ApgmsError
from ...libraries import psycopg, sql
from ...ports.database import columns, whole_tables
from ..acts.progress import Progress, say_into
from ..ledger.chain_rule import deviating_rows

if TYPE_CHECKING:
    from ...ports.database import Connection

LIMIT = 50
"""How many invalid rows a verdict lists by id."""
_ROWS_A_FETCH = 1000
_REQUIRED = {
    "rpt_tokens": (
        "id", "abn", "tax_type", "period_id", "payload", "signature", "status", "created_at",
    ),
    "periods": (
        "abn", "tax_type", "period_id", "state", "final_liability_cents", "credited_to_owa_cents",
    ),
    "owa_ledger": (
        "id", "abn", "tax_type", "period_id", "amount_cents", "balance_after_cents",
        "bank_receipt_hash", "prev_hash", "hash_after",
    ),
}  # fmt: skip
_TOKEN_OPTIONAL = ("nonce", "kid", "rates_version", "expires_at")
_PERIOD_OPTIONAL = ("merkle_root", "running_balance_hash")
_READ_WHERE_PRESENT = {
    "rpt_tokens": ("payload_c14n", "payload_sha256", *_TOKEN_OPTIONAL),
    "periods": (*_PERIOD_OPTIONAL, "anomaly_vector", "thresholds"),
}


@dataclass
class RptVerdict:
    """What was found. Amounts are cents."""

    total: int = 0
    invalid_total: int = 0
    invalid: list[dict[str, Any]] = field(default_factory=list)
    """The first invalid rows: id, abn, tax_type, period_id, findings."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How many rows break each rule."""
    expired_since: int = 0
    amount_cents: int = 0
    """The sum of the valid rows."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Usable tokens of periods in another state: state to count."""
    without_token: int = 0
    """Periods in READY_RPT for which no token was issued."""
    columns_absent: list[str] = field(default_factory=list)
    """Columns that other deployments have; what they say could not be compared."""

    @property
    def valid(self) -> int:
        """How many rows are fit to be released."""
        return self.total - self.invalid_total

    @property
    def failure(self) -> str | None:
        """What is said where rows are invalid: how many, the rules, and the first rows."""
        if not self.invalid_total:
            return None
        rules = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        rows = "\n".join(
            f"  {row['id']} ({row['abn']} {row['tax_type']} {row['period_id']}):"
            f" {'; '.join(row['findings'])}"
            for row in self.invalid
        )
        return (
            f"{self.invalid_total} of {self.total} RPT rows are not fit to be released. Where:"
            f" table rpt_tokens. Why: {rules}. Mend: have APGMS block or re-issue them, then run"
            f" the same command again. The first {len(self.invalid)}:\n{rows}"
        )

    def summary(self) -> dict[str, Any]:
        """Return what the manifest's signed verdict says; JSON values."""
        return {
            "total": self.total,
            "valid": self.valid,
            "expired_since": self.expired_since,
            "columns_absent": self.columns_absent,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values, amounts as strings of cents."""
        return {
            "total": self.total,
            "valid": self.valid,
            "invalid_total": self.invalid_total,
            "invalid": self.invalid,
            "reasons": dict(self.reasons),
            "expired_since": self.expired_since,
            "amount_cents": str(self.amount_cents),
            "left_out": self.left_out,
            "without_token": self.without_token,
            "columns_absent": self.columns_absent,
        }


def verify_rows(
    connection: Connection,
    policy: Policy,
    now: datetime,
    rates_version: str,
    *,
    sink: Callable[[Checked], None] | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> RptVerdict:
    """Verify every RPT row in the order of a bundle; hand each valid one to ``sink``.

    A period in READY_RPT is represented by its usable tokens; where it has none, by its newest
    token, which then breaks the rule of the status.

    :param now: the database's time, which the ages are measured by
    :param limit: how many invalid rows the verdict lists
    :raises ApgmsError: ``database.missing_table``, ``database.missing_column``, ``policy.rpt_key``
    """
    present = {table: _columns(connection, table) for table in _REQUIRED}
    rules = Rules(
        load_keys(policy.rpt_keys),
        now,
        timedelta(seconds=policy.max_token_age_seconds),
        rates_version,
    )
    verdict = RptVerdict(columns_absent=_absent(present))
    verdict.left_out = _left_out(connection)
    verdict.without_token = _without_token(connection)
    expected = _ready(connection)
    progress = progress or Progress(say_into(None))
    progress.say("Verify: the ledger rows of what is ready")
    deviations = _deviations(connection)
    progress.say(f"Verify: reading {expected:,} RPTs")
    progress.begin()
    for token, period in _candidates(connection, present, deviations):
        checked = check(token, period, rules)
        _count(verdict, checked, limit)
        progress.done("Verify", verdict.total, expected, "RPTs")
        if sink is not None and not checked.findings:
            sink(checked)
    return verdict


def candidate_periods(connection: Connection) -> list[str]:
    """Return the period ids that RPT rows would be released for, in order."""
    rows = connection.execute(
        'SELECT DISTINCT period_id COLLATE "C" AS period_id FROM periods'
        " WHERE state = 'READY_RPT' ORDER BY 1"
    )
    return [str(period_id) for (period_id,) in rows]


def _count(verdict: RptVerdict, checked: Checked, limit: int) -> None:
    verdict.total += 1
    verdict.expired_since += checked.expired
    if not checked.findings:
        verdict.amount_cents += checked.amount_cents
        return
    verdict.invalid_total += 1
    verdict.reasons.update({finding.reason for finding in checked.findings})
    if len(verdict.invalid) < limit:
        token = checked.token
        verdict.invalid.append(
            {
                "id": str(token.id),
                "abn": token.abn,
                "tax_type": token.tax_type,
                "period_id": token.period_id,
                "findings": [f"{item.reason}: {item.evidence}" for item in checked.findings],
            }
        )


def _columns(connection: Connection, table: str) -> frozenset[str]:
    present = columns(connection, table)
    missing = [name for name in _REQUIRED[table] if name not in present]
    if missing:
        raise ApgmsError(
            "database.missing_column",
            "An APGMS table lacks a column without which RPTs cannot be verified",
            where=f"table {table}",
            why=f"it has no {', '.join(missing)}",
            mend="point apgms_database_url at the APGMS database, or run its migrations",
        )
    return frozenset(present)


def _absent(present: dict[str, frozenset[str]]) -> list[str]:
    return [
        f"{table}.{name}"
        for table, names in _READ_WHERE_PRESENT.items()
        for name in names
        if name not in present[table]
    ]


def _ready(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM periods WHERE state = 'READY_RPT'").fetchone()
    return int(row[0]) if row else 0


def _deviations(connection: Connection) -> dict[Chain, Counter[str]]:
    """Return how the ledger rows of the candidate periods deviate from the chain rule."""
    found: dict[Chain, Counter[str]] = {}
    chains = sql.SQL("SELECT abn, tax_type, period_id FROM periods WHERE state = 'READY_RPT'")
    for chain, _row_id, kind in deviating_rows(connection, chains):
        found.setdefault(chain, Counter())[kind] += 1
    return found


def _candidates(
    connection: Connection,
    present: dict[str, frozenset[str]],
    deviations: dict[Chain, Counter[str]],
) -> Iterator[tuple[Token, Period]]:
    query = sql.SQL(_CANDIDATES).format(
        token_columns=_selected("t", _READ_WHERE_PRESENT["rpt_tokens"], present["rpt_tokens"]),
        period_columns=_selected("p", _READ_WHERE_PRESENT["periods"], present["periods"]),
    )
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    with whole_tables(connection):
        for row in cursor.stream(query, {"usable": list(USABLE)}, size=_ROWS_A_FETCH):
            token = _token(row)
            deviating = deviations.get(Chain(token.abn, token.tax_type, token.period_id))
            yield token, _period(row, deviating)


def _token(row: dict[str, Any]) -> Token:
    return Token(
        id=row["id"],
        abn=row["abn"],
        tax_type=row["tax_type"],
        period_id=row["period_id"],
        payload=row["payload"],
        signature=row["signature"],
        status=row["status"],
        created_at=row["created_at"],
        payload_c14n=row.get("payload_c14n"),
        payload_sha256=row.get("payload_sha256"),
        columns={name: row[name] for name in _TOKEN_OPTIONAL if name in row},
        usable_of_period=row["usable_of_period"],
        nonce_repeated=row["nonce_repeated"],
    )


def _period(row: dict[str, Any], deviating: Counter[str] | None) -> Period:
    return Period(
        final_liability_cents=row["final_liability_cents"],
        credited_to_owa_cents=row["credited_to_owa_cents"],
        columns={name: row[name] for name in _PERIOD_OPTIONAL if name in row},
        anomaly_vector=row.get("anomaly_vector"),
        thresholds=row.get("thresholds"),
        ledger_hash=row["ledger_hash"],
        deviations=None if deviating is None else _shown(deviating),
    )


def _shown(deviating: Counter[str]) -> str:
    return ", ".join(f"{kind} in {count}" for kind, count in deviating.items())


def _selected(alias: str, names: tuple[str, ...], present: frozenset[str]) -> sql.Composed:
    found = [name for name in names if name in present]
    return sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(alias, name)) for name in found)


# The last ledger rows come from one aggregate: deployments index the chain or do not.
_CANDIDATES = """
WITH last_row AS (
    SELECT l.abn, l.tax_type, l.period_id, l.hash_after FROM owa_ledger l
    JOIN (SELECT max(o.id) AS id FROM owa_ledger o
          JOIN periods p USING (abn, tax_type, period_id) WHERE p.state = 'READY_RPT'
          GROUP BY abn, tax_type, period_id) m USING (id)
), repeated AS (
    SELECT payload->>'nonce' AS nonce FROM rpt_tokens
    WHERE payload->>'nonce' IS NOT NULL GROUP BY 1 HAVING count(*) > 1
), standing AS (
    SELECT t.id, t.status = ANY(%(usable)s) AS usable,
           count(*) FILTER (WHERE t.status = ANY(%(usable)s)) OVER chain AS usable_of_period,
           max(t.id) OVER chain AS newest
    FROM rpt_tokens t WINDOW chain AS (PARTITION BY t.abn, t.tax_type, t.period_id)
)
SELECT t.id, t.abn, t.tax_type, t.period_id, t.payload::text AS payload, t.signature, t.status,
       t.created_at, s.usable_of_period, r.nonce IS NOT NULL AS nonce_repeated,
       p.final_liability_cents, p.credited_to_owa_cents, l.hash_after AS ledger_hash
       {token_columns} {period_columns}
FROM rpt_tokens t
JOIN standing s USING (id)
JOIN periods p USING (abn, tax_type, period_id)
LEFT JOIN last_row l USING (abn, tax_type, period_id)
LEFT JOIN repeated r ON r.nonce = t.payload->>'nonce'
WHERE p.state = 'READY_RPT' AND (s.usable OR (s.usable_of_period = 0 AND s.id = s.newest))
ORDER BY t.tax_type COLLATE "C", t.period_id COLLATE "C", t.id
"""


def _left_out(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        "SELECT coalesce(p.state, 'no period'), count(*) FROM rpt_tokens t"
        " LEFT JOIN periods p USING (abn, tax_type, period_id)"
        " WHERE t.status = ANY(%s) AND p.state IS DISTINCT FROM 'READY_RPT' GROUP BY 1 ORDER BY 1",
        [list(USABLE)],
    )
    return {str(state): int(count) for state, count in rows}


def _without_token(connection: Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM periods p WHERE p.state = 'READY_RPT' AND NOT EXISTS ("
        "SELECT FROM rpt_tokens t WHERE (t.abn, t.tax_type, t.period_id)"
        " = (p.abn, p.tax_type, p.period_id))"
    ).fetchone()
    return int(row[0]) if row else 0
