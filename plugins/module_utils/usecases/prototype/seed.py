# GNU General Public License v3.0+ (see COPYING)
"""Fill the sandbox ledger of the prototype stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ...domain.tax.periods import parse_period_id
from ...domain.tax.rates import Catalog
from ...domain.tax.synthetic import Plan, require_plan
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.clock import Clock
from ...ports.database import columns, rehearsal
from ..acts.progress import Progress
from ..stack import kill_switch
from .seed_load import (
    SOURCE_TABLES,
    Counts,
    copy_rows,
    count_rows,
    load_ledger,
    table_name,
)
from .seed_rows import ACTOR, LEDGER_COLUMNS, SOURCE_COLUMNS, RowWriter

if TYPE_CHECKING:
    from ...ports.database import Connection

_TABLES = {**LEDGER_COLUMNS, **SOURCE_COLUMNS}


@dataclass(frozen=True)
class SeedRequest:
    """What the operator asks for."""

    stack: str
    number: int
    """The seed number: the same one gives the same ledger."""
    entities: int
    period_ids: Sequence[str]
    issued_at: datetime | None
    """When the tokens are issued; None: when the ledger is seeded, kept on every later run."""


@dataclass(frozen=True)
class Seeded:
    """Rows by table before and after, and when the tokens were issued."""

    issued_at: datetime
    before: Counts
    after: Counts


def seed_ledger(
    connection: Connection,
    clock: Clock,
    request: SeedRequest,
    catalog: Catalog,
    sign: Callable[[bytes], bytes],
    *,
    check_mode: bool,
    progress: Progress | None = None,
) -> Seeded:
    """Fill an empty sandbox ledger; leave one that holds this very seed as it is.

    The audit log may hold entries of others, before and after the seed's. In check mode the rows
    are made and counted, and none is written.

    :param sign: signs with the stack's RPT key, Ed25519
    :raises ApgmsError: ``seed.stack``, ``seed.other_rows``, ``seed.size``, ``seed.periods``,
        ``seed.period_not_over``; ``kill_switch.on`` where rows would be written
    """
    require_proto(request.stack)
    for table in LEDGER_COLUMNS:
        columns(connection, table)
    before = _count(connection)
    occupied = any(count for table, count in before.items() if table != "audit_log")
    plan = _plan(connection, clock, request, catalog, occupied)
    tell = _teller(progress, plan)
    if occupied:
        _require_this_seed(connection, plan, sign, tell)
        return Seeded(plan.issued_at, before, before)
    _require_own_database(connection)
    kill_switch.require_off(connection, request.stack)
    if check_mode:
        added = count_rows(plan, sign, tell)
    else:
        added = load_ledger(connection, plan, sign, sources=True, progress=tell)
    after = {table: count + added[table] for table, count in before.items()}
    return Seeded(plan.issued_at, before, after)


def require_proto(stack: str) -> None:
    """Refuse every stack but the prototype.

    :raises ApgmsError: ``seed.stack``
    """
    if stack != "proto":
        raise ApgmsError(
            "seed.stack",
            "Only the prototype stack has a sandbox ledger to seed and check",
            where=f"stack: {stack}",
            why="synthetic rows must never stand among real ones",
            mend="ansible-playbook -i inventories/proto playbooks/proto_release.yml",
        )


def _require_own_database(connection: Connection) -> None:
    """Refuse the database of prod, whatever the inventory calls the stack.

    :raises ApgmsError: ``seed.stack``
    """
    table = connection.execute("SELECT to_regclass('apgms_release.policy')").fetchone()
    if table is None or table[0] is None:
        return
    if connection.execute("SELECT 1 FROM apgms_release.policy WHERE stack = 'prod'").fetchone():
        raise ApgmsError(
            "seed.stack",
            "This is the database of prod",
            where=f"database {connection.info.dbname}",
            why="the policy of prod is pinned in it; synthetic rows must never stand among real ones",
            mend="set apgms_database_url to the database of proto",
        )


def _plan(
    connection: Connection, clock: Clock, request: SeedRequest, catalog: Catalog, occupied: bool
) -> Plan:
    issued_at = request.issued_at
    if issued_at is None and occupied:
        issued_at = _first_issue(connection)
    plan = Plan(
        number=request.number,
        entities=request.entities,
        periods=tuple(map(parse_period_id, request.period_ids)),
        issued_at=(issued_at or clock.now()).astimezone(UTC).replace(microsecond=0),
        catalog=catalog,
        valid_abns=False,
    )
    require_plan(plan)
    return plan


def _first_issue(connection: Connection) -> datetime | None:
    row = connection.execute("SELECT min(created_at) FROM rpt_tokens").fetchone()
    return row[0] if row else None


def _count(connection: Connection) -> Counts:
    query = sql.SQL("SELECT count(*) FROM {}")
    counts = {}
    for table in _TABLES:
        found = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        exists = found is not None and found[0] is not None
        row = connection.execute(query.format(table_name(table))).fetchone() if exists else None
        counts[table] = int(row[0]) if row else 0
    return counts


def _teller(progress: Progress | None, plan: Plan) -> Callable[[int], None]:
    if progress is None:
        return lambda entities: None
    return lambda entities: progress.done("Seed", entities, plan.entities, "entities")


def _require_this_seed(
    connection: Connection,
    plan: Plan,
    sign: Callable[[bytes], bytes],
    tell: Callable[[int], None],
) -> None:
    """Make the rows of ``plan`` anew beside the tables and compare; all of it is rolled back."""
    with rehearsal(connection):
        connection.execute(SOURCE_TABLES)
        targets = {table: f"expected_{table.rpartition('.')[2]}" for table in _TABLES}
        for table, target in targets.items():
            connection.execute(_statement(_MAKE_EXPECTED, table, target))
        first_entry, terminal_hash = _audit_start(connection)
        first_ids = {**dict.fromkeys(LEDGER_COLUMNS, 1), "audit_log": first_entry}
        copy_rows(connection, RowWriter(plan, sign, first_ids, terminal_hash), targets, tell)
        found = {
            table: (
                _left_over(connection, table, _MISSING, target),
                0 if table == "audit_log" else _left_over(connection, table, _UNEXPECTED, target),
            )
            for table, target in targets.items()
        }
    if any(map(any, found.values())):
        raise _other_rows(connection, found)


def _audit_start(connection: Connection) -> tuple[int, str]:
    """Return where in the audit log the seed's entries begin, and the chain before them."""
    row = connection.execute(
        "SELECT seq, coalesce(prev_hash, '') FROM audit_log WHERE actor = %s ORDER BY seq LIMIT 1",
        [ACTOR],
    ).fetchone()
    return (row[0], row[1]) if row else (1, "")


_MAKE_EXPECTED = "CREATE TEMPORARY TABLE {target} AS SELECT {columns} FROM {table} WITH NO DATA"
_MISSING = "SELECT {columns} FROM {target} EXCEPT ALL SELECT {columns} FROM {table}"
_UNEXPECTED = "SELECT {columns} FROM {table} EXCEPT ALL SELECT {columns} FROM {target}"


def _left_over(connection: Connection, table: str, template: str, target: str) -> int:
    query = sql.SQL("SELECT count(*) FROM ({}) AS left_over")
    row = connection.execute(query.format(_statement(template, table, target))).fetchone()
    return int(row[0]) if row else 0


def _statement(template: str, table: str, target: str) -> sql.Composed:
    names = [sql.Identifier(name.strip()) for name in _TABLES[table].split(",")]
    return sql.SQL(template).format(
        table=table_name(table),
        target=sql.Identifier(target),
        columns=sql.SQL(", ").join(names),
    )


def _other_rows(connection: Connection, found: dict[str, tuple[int, int]]) -> ApgmsError:
    other = "; ".join(
        f"{table}: {missing} rows of the seed missing, {unexpected} rows not of the seed"
        for table, (missing, unexpected) in found.items()
        if missing or unexpected
    )
    return ApgmsError(
        "seed.other_rows",
        "The ledger holds rows that are not of this seed; nothing was changed",
        where=f"database {connection.info.dbname}",
        why=other,
        mend="seed an empty database, or ask for the seed number, sizes, periods, rates and key"
        " that this ledger was seeded with",
    )
