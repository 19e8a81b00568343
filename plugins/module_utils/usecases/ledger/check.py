# GNU General Public License v3.0+ (see COPYING)
"""Check the whole ledger against its log, and every rollback against its target.

Counts with :mod:`domain.ledger.recount` and its own queries, and shares neither with snapshots,
releases and rollbacks; which origin is in force it learns from :mod:`.origin`. What it finds is a
verdict; only unreadable input is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ...domain.approval.policy import Policy
from ...domain.ledger.leaf import OUTPUT_SETTINGS
from ...domain.ledger.recount import (
    ACCEPTED,
    Balances,
    ChainKey,
    Entry,
    Head,
    Tree,
    fault,
    read_checkpoint,
)
from ...errors import ApgmsError
from ...libraries import cryptography_exceptions, psycopg, serialization, sql
from ...ports.object_store import BRING_BACK, ObjectStore, read
from ..acts.progress import Progress, say_into
from .origin import log_in_force

if TYPE_CHECKING:
    from ...ports.database import Connection

SHOWN_IDS = 20
SIGHT_SETTINGS = {"row_security": "off"}
"""A policy that hides rows from this role is an error, not rows that are missing."""
ROWS_AT_ONCE = 5000
T = TypeVar("T")
_SIZE = re.compile(r"[0-9]{16}")
_SEGMENT = re.compile(r"([0-9]{16})-([0-9]{16})")
_COUNTED = ("id", "abn", "tax_type", "period_id", "amount_cents")
"""The columns that are counted with."""

Payouts = dict[str, list[tuple[ChainKey, int]]]
"""Plan digest to the payouts that its rollback let stand: chain and amount."""


class RecordedRollback(NamedTuple):
    """What a rollback says of itself."""

    plan_sha256: str
    incident_id: str
    target_sha256: str
    target_tree_size: int
    tree_size_before: int
    root_before: str
    tree_size_after: int | None
    root_after: str | None
    balances_sha256: str

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The tree sizes before and after it."""
        return self.tree_size_before, self.tree_size_after


class Row(NamedTuple):
    """A row of the log; ``line`` is how it was archived."""

    id: int
    chain: ChainKey
    cents: int
    line: bytes


class Segment(NamedTuple):
    """Archived rows; ``header`` is the line that names their columns."""

    header: bytes
    names: list[str]
    rows: list[Row]


@dataclass
class Findings:
    """What was counted, and what is wrong.

    ``rows`` are those of the ledger, ``admitted`` those of them that are in the log.
    """

    origin: str
    tree_size: int = 0
    rows: int = 0
    admitted: int = 0
    deviations: dict[str, list[int]] = field(default_factory=dict)
    """Kind of deviation to the ids of its rows."""
    rollbacks: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """Return the findings in words."""
        known = ", ".join(
            f"{kind}: rows {_some(ids)}"
            for kind, ids in self.deviations.items()
            if kind in ACCEPTED
        )
        return (
            f"{self.rows} ledger rows checked, {self.admitted} of them against the log"
            f" {self.origin} of {self.tree_size} rows; {self.rollbacks} rollbacks proven again;"
            f" known deviations: {known or 'none'}"
        )

    @property
    def not_admitted(self) -> int:
        """How many rows came after the log's newest checkpoint."""
        return self.rows - self.admitted

    def row(self, kind: str, row_id: int) -> None:
        """Note a deviating row."""
        self.deviations.setdefault(kind, []).append(row_id)

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless ``holds``."""
        if not holds:
            self.problems.append(problem)


def check_ledger(
    connection: Connection,
    store: ObjectStore,
    policy: Policy,
    progress: Progress | None = None,
) -> Findings:
    """Check ledger, log and rollbacks as they stand in one view of the database.

    :raises ApgmsError: ``ledger_check.no_log``, ``ledger_check.unreadable``,
        ``ledger_check.column_gone``, ``database.missing_table``, ``object_store.*``
    """
    progress = progress or Progress(say_into(None))
    findings = Findings(log_in_force(store, policy).origin)
    stored = set(_checkpoints(store, findings.origin))
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            for name, value in {**OUTPUT_SETTINGS, **SIGHT_SETTINGS}.items():
                connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            rollbacks = _rollbacks(connection)
            head = _newest(store, policy, findings, stored, rollbacks)
            _check_log(connection, store, head, rollbacks, findings, progress)
            _check_chains(connection, findings, progress)
            _check_mirrors(connection, findings)
    finally:
        connection.isolation_level = None
    for kind, ids in findings.deviations.items():
        findings.require(kind in ACCEPTED, f"{kind}: rows {_some(ids)}")
    return findings


def _check_log(
    connection: Connection,
    store: ObjectStore,
    head: Head,
    rollbacks: list[RecordedRollback],
    findings: Findings,
    progress: Progress,
) -> None:
    findings.tree_size = head.size
    findings.rollbacks = len(rollbacks)
    recount = _Recount(rollbacks, _standing_payouts(connection, findings))
    present = _columns(connection)
    progress.begin()
    for segment in _segments(store, head.size, findings):
        _require_columns(findings.origin, segment.names, present)
        _compare_rows(connection, segment, findings)
        for row in segment.rows:
            recount.add(segment.header, row)
        progress.done("Checking archived rows", recount.tree.size, head.size, "rows")
    findings.require(
        (recount.tree.size, recount.tree.root()) == (head.size, head.root),
        f"the archived rows do not give the root of the checkpoint of {head.size} rows",
    )
    recount.verdict(findings)


def _checkpoints(store: ObjectStore, origin: str) -> dict[str, int]:
    """Return the keys of the stored checkpoints and their tree sizes, ascending."""
    keys = store.keys(f"log/{origin}/checkpoint/")
    names = ((key, key.rpartition("/")[2]) for key in keys)
    return {key: int(name) for key, name in names if _SIZE.fullmatch(name)}


def _newest(
    store: ObjectStore,
    policy: Policy,
    findings: Findings,
    stored: set[str],
    rollbacks: list[RecordedRollback],
) -> Head:
    """Return the newest head whose rows the view must have, whatever is admitted meanwhile.

    :param stored: the checkpoints that were there before the view was opened
    """
    proven = max((size or 0 for one in rollbacks for size in one.sizes), default=0)
    found = _checkpoints(store, findings.origin)
    keys = [key for key, size in found.items() if key in stored or size <= proven]
    if not keys:
        raise ApgmsError(
            "ledger_check.no_log",
            "There is no ledger log to check against",
            where=f"{store.url}/log/{findings.origin}/checkpoint/",
            why="no snapshot was ever taken",
            mend=f"make ledger-snapshot STACK={policy.stack}",
        )
    head = _read(store, keys[-1], read_checkpoint)
    findings.require(
        head.origin == findings.origin and _signed(head, policy.log.key),
        f"the checkpoint {keys[-1]} is not signed with the log key that the policy pins",
    )
    return head


def _signed(head: Head, pem: str) -> bool:
    key = serialization.load_pem_public_key(pem.encode())
    for signature in head.signatures:
        try:
            key.verify(signature, head.signed)  # type: ignore[union-attr, call-arg]
        except cryptography_exceptions.InvalidSignature:
            continue
        return True
    return False


def _segments(store: ObjectStore, size: int, findings: Findings) -> Iterator[Segment]:
    """Yield each archived segment below ``size``, in order of position."""
    end = 0
    for key in store.keys(f"log/{findings.origin}/segment/"):
        name = _SEGMENT.fullmatch(key.rpartition("/")[2])
        if name and int(name[1]) < size:
            findings.require(end == int(name[1]), f"{key} does not follow one that ends at {end}")
            yield (segment := _read(store, key, _segment))
            end = int(name[2])
            rows = len(segment.rows)
            findings.require(rows == end - int(name[1]), f"{key} has {rows} rows")
    findings.require(end == size, f"the last archived segment ends at {end}, not at {size}")


def _read(store: ObjectStore, key: str, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(read(store, key))
    except ValueError as error:
        raise ApgmsError(
            "ledger_check.unreadable",
            "An object of the ledger log cannot be read",
            where=f"{store.url}/{key}",
            why=str(error),
            mend=BRING_BACK,
        ) from None


def _segment(data: bytes) -> Segment:
    """Return archived rows.

    :raises ValueError: where these are none
    """
    header, *lines = data.splitlines(keepends=True) or [b""]
    names = _fields(header)
    if absent := [name for name in _COUNTED if name not in names]:
        raise ValueError(f"its first line names no column {', '.join(absent)}")
    return Segment(header, names, [_row(names, *line) for line in enumerate(lines, 2)])


def _row(names: list[str], number: int, line: bytes) -> Row:
    fields = _fields(line)
    if len(fields) != len(names) or not line.endswith(b"\n"):
        raise ValueError(f"line {number} is not a whole row of {len(names)} columns")
    values = dict(zip(names, fields, strict=True))
    chain = (values["abn"], values["tax_type"], values["period_id"])
    return Row(int(values["id"]), chain, int(values["amount_cents"]), line)


_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _fields(line: bytes) -> list[str]:
    """Return the fields of one line of COPY text; NULL stays as it is written."""
    return [
        _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), field)
        if "\\" in field and field != "\\N"
        else field
        for field in line.decode().rstrip("\n").split("\t")
    ]


class _Recount:
    """Walks the log's rows in order of admission: tree, balances, and each rollback's claims."""

    def __init__(self, rollbacks: list[RecordedRollback], payouts: Payouts) -> None:
        self.tree = Tree()
        self._balances = Balances()
        self._rollbacks = rollbacks
        self._payouts = payouts
        self._roots: dict[int, str] = {}
        self._digests: dict[int, str] = {}
        self._targets: dict[str, str] = {}
        self._sizes = {size for one in rollbacks for size in one.sizes}

    def add(self, header: bytes, row: Row) -> None:
        """Take in the next row of the log."""
        self._note()
        self.tree.add(header + row.line)
        self._balances.add(row.chain, row.cents)

    def verdict(self, findings: Findings) -> None:
        """Hold each rollback against what was counted."""
        self._note()
        for one in self._rollbacks:
            name = f"rollback {one.incident_id}"
            findings.require(
                one.tree_size_after is not None,
                f"{name} was carried out but never proven: run it again to finish it",
            )
            findings.require(
                self._targets.get(one.plan_sha256) == one.balances_sha256,
                f"{name} does not name the balances of its target {one.target_sha256}",
            )
            findings.require(
                self._roots.get(one.tree_size_before) == one.root_before,
                f"{name}: the ledger before it is not a prefix of the ledger now",
            )
            if one.tree_size_after is not None:
                findings.require(
                    self._digests.get(one.tree_size_after) == one.balances_sha256,
                    f"{name}: the balances after it are not those of its target",
                )
                findings.require(
                    self._roots.get(one.tree_size_after) == one.root_after,
                    f"{name}: the ledger after it is not a prefix of the ledger now",
                )

    def _note(self) -> None:
        if self.tree.size in self._sizes:
            self._roots[self.tree.size] = self.tree.root().hex()
            self._digests[self.tree.size] = self._balances.digest()
        for one in self._rollbacks:
            if one.target_tree_size == self.tree.size:
                further = self._payouts.get(one.plan_sha256, [])
                self._targets[one.plan_sha256] = self._balances.digest(further)


def _compare_rows(connection: Connection, segment: Segment, findings: Findings) -> None:
    """Compare archived rows with the ledger's, column by column as they print."""
    place = segment.names.index("id")
    archived = {row.id: row.line for row in segment.rows}
    names = sql.SQL(", ").join(sql.SQL("l.{}").format(sql.Identifier(n)) for n in segment.names)
    query = sql.SQL("COPY (SELECT {} FROM owa_ledger AS l WHERE id = ANY({})) TO STDOUT").format(
        names, sql.Literal(list(archived))
    )
    with connection.cursor().copy(query) as found:
        for line in map(bytes, found):
            row_id = int(line.rstrip(b"\n").split(b"\t")[place])
            then = archived.pop(row_id, None)
            if then is None:
                findings.row("repeated id", row_id)
                continue
            findings.admitted += 1
            if then != line:
                findings.row("changed row", row_id)
    for row_id in archived:
        findings.row("missing row", row_id)


def _check_chains(connection: Connection, findings: Findings, progress: Progress) -> None:
    [(total, without)] = connection.execute(
        "SELECT count(*), count(*) - count(id) FROM owa_ledger"
    ).fetchall()
    findings.require(not without, f"{without} rows have no id, so no log can have admitted them")
    progress.done("Checking chains", 0, total, "rows")
    progress.begin()
    last: Entry | None = None
    chain: tuple[Any, ...] = ()
    for *key, row_id, amount, balance, receipt, prev, link in connection.cursor().stream(
        "SELECT l.abn, l.tax_type, l.period_id, l.id, l.amount_cents, l.balance_after_cents,"
        " l.bank_receipt_hash, l.prev_hash, l.hash_after FROM owa_ledger AS l"
        " ORDER BY l.abn, l.tax_type, l.period_id, l.id",
        size=ROWS_AT_ONCE,
    ):
        entry = Entry(row_id, amount, balance, receipt, prev, link)
        if tuple(key) != chain:
            chain, last = tuple(key), None
        wrong = fault(entry, last)
        if wrong:
            findings.row(wrong, row_id)
        findings.rows += 1
        last = entry
        if findings.rows % ROWS_AT_ONCE == 0:
            progress.done("Checking chains", findings.rows, total, "rows")


def _check_mirrors(connection: Connection, findings: Findings) -> None:
    """Each mirrored row negates its originals, which are older and none of which has two."""
    sums: defaultdict[int, int] = defaultdict(int)
    amounts: dict[int, int] = {}
    for original, amount, mirror, mirrored in connection.execute(
        "SELECT o.id, o.amount_cents, n.id, n.amount_cents FROM apgms_release.mirror AS pair"
        " LEFT JOIN owa_ledger AS n ON n.transfer_uuid = pair.mirror_uuid"
        " LEFT JOIN owa_ledger AS o ON o.id = pair.original_id"
    ):
        if original is None or mirror is None or original >= mirror:
            findings.problems.append(f"a mirror pair is torn: original {original}, mirror {mirror}")
            continue
        sums[mirror] += amount
        amounts[mirror] = mirrored
    wrong = [mirror for mirror, total in sums.items() if amounts[mirror] != -total]
    findings.require(not wrong, f"mirrored rows do not negate their originals: {_some(wrong)}")


def _standing_payouts(connection: Connection, findings: Findings) -> Payouts:
    """Return what stays after each target's snapshot: acknowledged payouts, nothing else."""
    payouts: defaultdict[str, list[tuple[ChainKey, int]]] = defaultdict(list)
    strange = []
    for plan, row_id, abn, tax_type, period_id, amount, acknowledged in connection.execute(
        "SELECT kept.plan_sha256, kept.ledger_id, l.abn, l.tax_type, l.period_id, l.amount_cents,"
        " EXISTS (SELECT FROM apgms_release.claim AS c WHERE c.outcome = 'accepted'"
        "  AND c.abn = l.abn AND c.tax_type = l.tax_type AND c.period_id = l.period_id"
        "  AND c.amount_cents = -l.amount_cents AND NOT EXISTS ("
        "   SELECT FROM apgms_release.undone AS u WHERE u.manifest_sha256 = c.manifest_sha256"
        "   AND u.plan_sha256 = kept.plan_sha256))"
        " FROM apgms_release.standing_payout AS kept"
        " LEFT JOIN owa_ledger AS l ON l.id = kept.ledger_id"
    ):
        if not acknowledged:
            strange.append(row_id)
            continue
        payouts[plan].append(((abn, tax_type, period_id), amount))
    findings.require(not strange, f"rows that stand are no acknowledged payouts: {_some(strange)}")
    return payouts


def _rollbacks(connection: Connection) -> list[RecordedRollback]:
    columns = ", ".join(RecordedRollback._fields)
    query = f"SELECT {columns} FROM apgms_release.rollback ORDER BY applied_at"  # noqa: S608
    return [RecordedRollback(*row) for row in connection.execute(query.encode())]


def _columns(connection: Connection) -> set[str]:
    found = connection.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('owa_ledger')"
        " AND attnum > 0 AND NOT attisdropped"
    )
    return {name for (name,) in found}


def _require_columns(origin: str, names: list[str], present: set[str]) -> None:
    gone = [name for name in names if name not in present]
    if gone:
        raise ApgmsError(
            "ledger_check.column_gone",
            "The ledger lacks a column that its log covers",
            where=f"table owa_ledger, log {origin}",
            why=f"there is no column {', '.join(gone)} any more, so no row can be compared",
            mend="put the column back with its values (docs/ledger-log.md, Restore)",
        )


def _some(ids: list[int]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(map(str, ids[:SHOWN_IDS])) + more
