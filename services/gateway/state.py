# GNU General Public License v3.0+ (see COPYING)
"""What the gateway remembers, in one SQLite file that survives a kill at any moment."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .contract import RECEIPT_SCHEMA, Row, SigningKey

PAGE_ROWS = 100
TABLES = """
CREATE TABLE IF NOT EXISTS submission (
  job_id TEXT PRIMARY KEY,
  idempotency_key TEXT NOT NULL,
  manifest_sha256 TEXT NOT NULL,
  body_sha256 TEXT NOT NULL,
  submission_id TEXT NOT NULL,
  stack TEXT NOT NULL,
  rejecting INTEGER NOT NULL,
  state TEXT NOT NULL,
  taken_at REAL NOT NULL,
  receipt_id TEXT,
  envelope BLOB
);
CREATE INDEX IF NOT EXISTS submission_key ON submission (idempotency_key);
CREATE INDEX IF NOT EXISTS submission_manifest ON submission (manifest_sha256);
CREATE INDEX IF NOT EXISTS submission_receipt ON submission (receipt_id);
CREATE TABLE IF NOT EXISTS rpt (
  job_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  rpt_id TEXT NOT NULL,
  tax_type TEXT NOT NULL,
  period_id TEXT NOT NULL,
  amount_cents INTEGER NOT NULL,
  payload_sha256 TEXT NOT NULL,
  PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
"""
REJECTION = {"code": "not_payable", "reason": "The authority does not accept this row."}


@dataclass(frozen=True)
class Submission:
    """A submission as stored."""

    job_id: str
    idempotency_key: str
    manifest_sha256: str
    body_sha256: str
    submission_id: str
    stack: str
    rejecting: int
    """How many of its rows, from the first, the authority refuses."""
    state: str
    taken_at: float
    receipt_id: str | None

    @property
    def final(self) -> bool:
        """Whether it is decided."""
        return self.state not in ("queued", "running")


_COLUMNS = ", ".join(Submission.__dataclass_fields__)


class State:
    """The submissions, their rows and receipts."""

    def __init__(self, path: Path, now: Callable[[], float], retention_seconds: float) -> None:
        self._now = now
        self._retention_seconds = retention_seconds
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(TABLES)

    def take(
        self,
        idempotency_key: str,
        manifest_sha256: str,
        body_sha256: str,
        manifest: dict[str, Any],
        rows: Iterable[Row],
        rows_to_reject: Callable[[], int],
    ) -> Submission:
        """Store a new submission with its rows, in one transaction.

        :param rows_to_reject: says how many rows the authority refuses; asked once all are read
        """
        job_id = f"job-{secrets.token_hex(16)}"
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO rpt VALUES (?,?,?,?,?,?,?)",
                ((job_id, seq, *vars(row).values()) for seq, row in enumerate(rows)),
            )
            connection.execute(
                f"INSERT INTO submission ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,'queued',?,NULL)",
                (
                    job_id,
                    idempotency_key,
                    manifest_sha256,
                    body_sha256,
                    manifest["submission_id"],
                    manifest["stack"],
                    min(rows_to_reject(), manifest["batch_total"]),
                    self._now(),
                ),
            )
        return self._one("job_id = ?", job_id)

    def by_job(self, job_id: str) -> Submission | None:
        """Return a submission; these are never forgotten."""
        return self._find("job_id = ?", job_id)

    def by_key(self, idempotency_key: str) -> Submission | None:
        """Return the submission taken under a key, as long as the key is remembered."""
        return self._find("idempotency_key = ? AND taken_at > ?", idempotency_key, self._horizon)

    def by_manifest(self, manifest_sha256: str) -> Submission | None:
        """Return the submission of a manifest, as long as its key is remembered."""
        return self._find("manifest_sha256 = ? AND taken_at > ?", manifest_sha256, self._horizon)

    def undecided(self) -> list[str]:
        """Return the jobs that are not decided, oldest first."""
        rows = self._query(
            "SELECT job_id FROM submission WHERE receipt_id IS NULL ORDER BY taken_at, rowid"
        )
        return [row[0] for row in rows]

    def begin(self, job_id: str) -> None:
        """Mark a submission as running."""
        with self._transaction() as connection:
            connection.execute("UPDATE submission SET state='running' WHERE job_id=?", (job_id,))

    def decide(self, job_id: str, environment: str, key: SigningKey) -> None:
        """Decide a submission: its state and its receipt, in one transaction."""
        receipt = self._receipt(self._one("job_id = ?", job_id), environment)
        with self._transaction() as connection:
            connection.execute(
                "UPDATE submission SET state=?, receipt_id=?, envelope=? WHERE job_id=?",
                (receipt["outcome"], receipt["receipt_id"], key.envelope(receipt), job_id),
            )

    def envelope(self, receipt_id: str) -> bytes | None:
        """Return a receipt as issued."""
        rows = self._query("SELECT envelope FROM submission WHERE receipt_id = ?", receipt_id)
        return bytes(rows[0][0]) if rows else None

    def other_receipt(self, receipt_id: str) -> bytes | None:
        """Return the receipt of another submission."""
        rows = self._query(
            "SELECT envelope FROM submission WHERE receipt_id <> ? ORDER BY taken_at", receipt_id
        )
        return bytes(rows[0][0]) if rows else None

    def status(self, submission: Submission, first: int = 0) -> dict[str, Any]:
        """Return a submission in the contract's form, with its rejections from ``first`` on."""
        rejected = submission.rejecting if submission.final else 0
        last = min(first + PAGE_ROWS, rejected)
        return {
            "job_id": submission.job_id,
            "state": submission.state,
            "manifest_sha256": submission.manifest_sha256,
            "idempotency_key": submission.idempotency_key,
            "body_sha256": submission.body_sha256,
            "accepted_count": self._total(submission)[0] - rejected if submission.final else 0,
            "rejected_count": rejected,
            "rejections": list(self._rejections(submission.job_id, first, last)),
            "next_rejection": str(last) if last < rejected else None,
            "receipt_id": submission.receipt_id,
        }

    def counters(self) -> dict[str, int]:
        """Return what was accepted, for tests to count."""
        accepted = (
            "FROM rpt JOIN submission USING (job_id)"
            " WHERE receipt_id IS NOT NULL AND seq >= rejecting"
        )
        return {
            "submissions": self._number("SELECT count(*) FROM submission"),
            "accepted_submissions": self._number(
                "SELECT count(*) FROM submission WHERE state IN ('accepted','partially_accepted')"
            ),
            "manifests_taken_more_than_once": self._number(
                "SELECT count(*) - count(DISTINCT manifest_sha256) FROM submission"
            ),
            "rows_accepted": self._number(f"SELECT count(*) {accepted}"),
            "rows_accepted_more_than_once": self._number(
                f"SELECT count(*) - count(DISTINCT payload_sha256) {accepted}"
            ),
        }

    def _receipt(self, submission: Submission, environment: str) -> dict[str, Any]:
        rejections = list(self._rejections(submission.job_id, 0, submission.rejecting))
        count, total_cents = self._total(submission)
        rejected_cents = sum(int(entry["amount_cents"]) for entry in rejections)
        return {
            "schema": RECEIPT_SCHEMA,
            "receipt_id": f"rcpt-{secrets.token_hex(16)}",
            "job_id": submission.job_id,
            "environment": environment,
            "stack": submission.stack,
            "manifest_sha256": submission.manifest_sha256,
            "submission_id": submission.submission_id,
            "idempotency_key": submission.idempotency_key,
            "body_sha256": submission.body_sha256,
            "outcome": _outcome(count, len(rejections)),
            "accepted_count": count - len(rejections),
            "accepted_cents": str(total_cents - rejected_cents),
            "rejected_count": len(rejections),
            "rejected_cents": str(rejected_cents),
            "rejections": rejections,
            "issued_at": issued_at(self._now()),
        }

    def _rejections(self, job_id: str, first: int, last: int) -> Iterator[dict[str, str]]:
        for rpt_id, tax_type, period_id, cents in self._query(
            "SELECT rpt_id, tax_type, period_id, amount_cents FROM rpt"
            " WHERE job_id = ? AND seq >= ? AND seq < ? ORDER BY seq",
            job_id,
            first,
            last,
        ):
            yield {
                "rpt_id": rpt_id,
                "tax_type": tax_type,
                "period_id": period_id,
                "amount_cents": str(cents),
                **REJECTION,
            }

    def _total(self, submission: Submission) -> tuple[int, int]:
        rows = self._query(
            "SELECT count(*), coalesce(sum(amount_cents), 0) FROM rpt WHERE job_id = ?",
            submission.job_id,
        )
        return rows[0][0], rows[0][1]

    @property
    def _horizon(self) -> float:
        return self._now() - self._retention_seconds

    def _one(self, condition: str, *values: Any) -> Submission:
        found = self._find(condition, *values)
        if found is None:
            raise LookupError(condition)
        return found

    def _find(self, condition: str, *values: Any) -> Submission | None:
        rows = self._query(
            f"SELECT {_COLUMNS} FROM submission WHERE {condition} ORDER BY taken_at",
            *values,
        )
        return Submission(*rows[0]) if rows else None

    def _number(self, query: str) -> int:
        return int(self._query(query)[0][0])

    def _query(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def issued_at(moment: float) -> str:
    """Return a time as receipts write it."""
    return (
        datetime.fromtimestamp(moment, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _outcome(count: int, rejected: int) -> str:
    if not rejected:
        return "accepted"
    return "partially_accepted" if rejected < count else "rejected"
