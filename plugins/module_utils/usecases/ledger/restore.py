# GNU General Public License v3.0+ (see COPYING)
"""Put rows that are missing from the ledger back, byte for byte as the log archived them.

The one exception to append-only, under a signed restore statement about exactly these rows. A row
that was changed is not overwritten: it is kept aside and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.approval.statement import Signed
from ...domain.formats.canonical import sha256_hex
from ...domain.ledger.extent import NAMED_RANGES, IdRange, expand, pairs, shown, total
from ...domain.ledger.leaf import line
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.object_store import ObjectStore
from ..acts import audit_log
from ..acts.journal_replay import catch_up
from ..acts.lease import Lease, hold
from ..approvals.approvals import consume, require_statement
from ..rollback.order import StackPorts
from ..stack import kill_switch
from .archive import Damage, all_segments, compare
from .log import LedgerLog
from .records import open_log
from .rows import one_view, rows

if TYPE_CHECKING:
    from ...ports.database import Connection

ACT = "restore rows"
"""The ``act`` in the subject of a restore statement about rows."""


def find_damage(connection: Connection, log: LedgerLog) -> Damage:
    """Compare every archived row with the ledger.

    :raises ApgmsError: ``log.segment_damaged``
    """
    archived = all_segments(log)  # before the view: what is admitted meanwhile is not missing
    with one_view(connection):
        return compare(connection, log, archived)


def predict(connection: Connection, store: ObjectStore, policy: Policy) -> Damage:
    """Return the damage that :func:`restore` would mend; the statement is not asked for.

    :raises ApgmsError: ``restore.changed_rows``, ``kill_switch.on``, ``log.segment_damaged``
    """
    damage = find_damage(connection, open_log(connection, store, policy))
    if damage.changed:
        raise _changed_rows(store, damage)
    if damage.missing:
        kill_switch.require_off(connection, policy.stack)
    return damage


def restore(ports: StackPorts, *, operator: str, holder: str, statements_dir: str) -> Damage:
    """Put the missing rows back; return the damage that was found.

    :raises ApgmsError: ``restore.changed_rows``, ``kill_switch.on``, ``approval.waiting``,
        ``restore.not_the_same``, ``lease.*``, ``journal.*``, ``log.segment_damaged``
    """
    stack = ports.policy.stack
    with hold(ports.connection, stack, holder, "restore", steps=ports.steps) as lease:
        catch_up(ports.connection, ports.store, ports.journal, lease, ports.steps)
        log = open_log(ports.connection, ports.store, ports.policy)
        damage = find_damage(ports.connection, log)
        if not damage:
            return damage
        _keep_aside(ports, log, damage)
        if damage.changed:
            raise _changed_rows(ports.store, damage)
        signed = _statements(ports, damage, operator, statements_dir)
        ports.steps.run(
            "restore.apply", lambda: _apply(ports, log, damage, operator, lease, signed)
        )
    return damage


def _statements(ports: StackPorts, damage: Damage, operator: str, folder: str) -> list[Signed]:
    return require_statement(
        ports.connection,
        ports.policy,
        folder,
        "restore",
        {"act": ACT, "sha256": damage.sha256},
        ports.clock.now(),
        operator,
    )


def _keep_aside(ports: StackPorts, log: LedgerLog, damage: Damage) -> None:
    """Put what is found now to the object store: the damage, and changed rows as they stand."""
    key = f"damage/{damage.sha256}"
    steps, store = ports.steps, ports.store
    steps.run("restore.keep", lambda: store.put_new(f"{key}/damage.json", damage.document))
    if damage.changed:
        found = b"".join(_current_lines(ports.connection, log, damage.changed))
        steps.run("restore.keep", lambda: store.put_new(_aside_key(damage, found), found))


def _aside_key(damage: Damage, found: bytes) -> str:
    return f"damage/{damage.sha256}/changed-{sha256_hex(found)}.copy"


def _current_lines(connection: Connection, log: LedgerLog, ids: Sequence[IdRange]) -> list[bytes]:
    names = log.snapshot(log.newest().tree_size).columns
    with one_view(connection):
        return [line(names), *rows(connection, names, ids)]


def _apply(
    ports: StackPorts,
    log: LedgerLog,
    damage: Damage,
    operator: str,
    lease: Lease,
    signed: Sequence[Signed],
) -> None:
    with ports.connection.transaction():
        lease.guard()
        kill_switch.require_off(ports.connection, ports.policy.stack)
        ports.connection.execute("LOCK TABLE owa_ledger IN SHARE ROW EXCLUSIVE MODE")
        put_back(ports.connection, log, damage)
        consume(ports.connection, signed, None)
        said = {
            "damage_sha256": damage.sha256,
            "rows": total(damage.missing),
            "ids": pairs(damage.missing, NAMED_RANGES),
            "operator": operator,
            "statements": [one.sha256 for one in signed],
        }
        audit_log.append(ports.connection, operator, "ledger_restore", said)
        ports.journal.record("ledger.restored", said)


def put_back(connection: Connection, log: LedgerLog, damage: Damage) -> None:
    """Insert the missing rows from the archive and prove them the same, in an open transaction.

    :raises ApgmsError: ``restore.not_the_same``
    """
    wanted = set(expand(damage.missing))
    for segment in all_segments(log):
        lines = [
            row
            for row_id, row in zip(segment.ids(), segment.lines, strict=True)
            if row_id in wanted
        ]
        if lines:
            _copy(connection, segment.columns, lines)
    connection.execute(_ADVANCE)
    if again := find_damage(connection, log):
        raise _not_the_same(again)


def _copy(connection: Connection, columns: Sequence[str], lines: list[bytes]) -> None:
    generated = {row[0] for row in connection.execute(_GENERATED)}
    places = [place for place, name in enumerate(columns) if name not in generated]
    query = sql.SQL("COPY owa_ledger ({}) FROM STDIN").format(
        sql.SQL(", ").join(sql.Identifier(columns[place]) for place in places)
    )
    with connection.cursor().copy(query) as ledger:
        for row in lines:
            fields = row.removesuffix(b"\n").split(b"\t")
            ledger.write(b"\t".join(fields[place] for place in places) + b"\n")


_GENERATED = """
SELECT attname FROM pg_attribute
WHERE attrelid = 'owa_ledger'::regclass AND attnum > 0 AND attgenerated <> ''
"""
# a restored backup's sequence may stand below the rows that are put back; an id at its end or beyond
# was not taken from it
_ADVANCE = """
SELECT setval(sequence, highest)
FROM (SELECT seqrelid::regclass AS sequence,
             (SELECT max(id) FROM owa_ledger WHERE id < seqmax) AS highest
      FROM pg_sequence
      WHERE seqrelid = pg_get_serial_sequence('owa_ledger', 'id')::regclass) AS found
WHERE highest > coalesce(pg_sequence_last_value(sequence), 0)
"""


def result(damage: Damage) -> dict[str, Any]:
    """Return the damage as the module returns it."""
    return {
        "damage_sha256": damage.sha256,
        "missing": total(damage.missing),
        "changed_rows": total(damage.changed),
        "rows": damage.words,
        **damage.ids,
    }


def _changed_rows(store: ObjectStore, damage: Damage) -> ApgmsError:
    return ApgmsError(
        "restore.changed_rows",
        "Rows of the ledger were changed; they are not overwritten",
        where=f"owa_ledger, rows {shown(damage.changed)}",
        why="only rows that are missing are put back; a run keeps the changed ones as they stand"
        f" in {store.url}/damage/{damage.sha256}/",
        mend="have the database's owner look into it and delete the changed rows under a signed"
        " change of their own; then this command puts the archived ones in their place",
        **result(damage),
    )


def _not_the_same(damage: Damage) -> ApgmsError:
    return ApgmsError(
        "restore.not_the_same",
        "Rows that were put back do not print as they were archived; nothing was changed",
        where="owa_ledger",
        why=f"rows {damage.words}",
        mend="look for a trigger or a default on owa_ledger that alters inserted rows",
    )
