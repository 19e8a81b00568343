# GNU General Public License v3.0+ (see COPYING)
"""The ledger's part of a rollback: the rows to mirror, their mirrors, the proof of balances.

Temporary tables of the open transaction hold what is planned: ``rollback_original``, the rows to
mirror; ``rollback_standing``, the payouts that stay; ``rollback_chain``, the last row of every
chain today and at the target; and ``rollback_now``, every balance after the rows are appended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...domain.ledger.extent import MOST_ID
from ...domain.ledger.leaf import line
from ...domain.ledger.mirror import Mirror, MirrorRow, Original, mirrors
from ...domain.release.rollback_plan import ChainChange, balances_digest
from ...errors import ApgmsError
from ...libraries import psycopg, sql
from ...ports.database import whole_tables
from ..release.effects import payout_uuid

if TYPE_CHECKING:
    from ...ports.database import Connection

ROWS_AT_ONCE = 5000
LOCK_TIMEOUT = "10s"
WORK_MEM = "64MB"
"""Of the server, for joins and sums over the whole ledger."""
SHOWN_CHAINS = 10


def lock_tables(connection: Connection) -> None:
    """Keep every other writer out until the transaction ends.

    :raises ApgmsError: ``rollback.ledger_busy``
    """
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
            connection.execute(
                "LOCK TABLE owa_ledger, periods, rpt_tokens IN SHARE ROW EXCLUSIVE MODE"
            )
            connection.execute("SELECT set_config('lock_timeout', '0', true)")
    except psycopg.errors.LockNotAvailable as error:
        raise ApgmsError(
            "rollback.ledger_busy",
            "A transaction keeps writing the ledger, so it cannot be rolled back now",
            where="owa_ledger, periods, rpt_tokens",
            why=f"no lock within {LOCK_TIMEOUT}: {error.diag.message_primary}",
            mend="see who writes: SELECT pid, query FROM pg_stat_activity WHERE state <> 'idle';"
            " stop the bank feed, then run the same command again",
        ) from None


def prepare(connection: Connection, origin: str, target_tree_size: int) -> None:
    """Fill the temporary tables for a target, inside the caller's open transaction.

    :param origin: the log that the target's manifest names
    """
    target = {"origin": origin, "size": target_tree_size, "most": MOST_ID}
    kept = connection.execute(_KEPT, target).fetchone()
    literal = sql.Literal(kept[0] if kept else "{}")
    connection.execute("SELECT set_config('work_mem', %s, true)", [WORK_MEM])
    for statement in (_DROP, _ORIGINALS, _STANDING, _CHAINS, *_ANALYZE):
        connection.execute(sql.SQL(statement).format(kept=literal))


def keep_payouts(connection: Connection, standing: Sequence[str]) -> tuple[int, int]:
    """Let the acknowledged payouts of standing releases stay; return their number and sum.

    They were booked after the snapshot that their manifest carries, and belong to it all the same:
    the target is the release as the authority acknowledged it.

    :param standing: manifest checksums of the target and of the releases before it
    """
    with whole_tables(connection):
        payloads = connection.execute(_PAID_SINCE, [list(standing)])
        uuids = [payout_uuid(payload_sha256) for (payload_sha256,) in payloads]
        kept = connection.execute(_KEEP, {"uuids": uuids}).fetchone() or (0, 0)
    return int(kept[0]), int(kept[1])


def record_standing(connection: Connection, plan_sha256: str) -> None:
    """Record which payouts stay, inside the rollback's transaction."""
    connection.execute(
        "INSERT INTO apgms_release.standing_payout (plan_sha256, ledger_id)"
        " SELECT %s, id FROM rollback_standing",
        [plan_sha256],
    )


def allows_one_row_per_period(connection: Connection) -> bool:
    """Tell whether the deployment has a unique index over entity, tax and period alone.

    Whatever rows it is limited to (the negative ones, usually), one net row for each chain is then
    all that can be appended.
    """
    found = connection.execute(_ONE_ROW_INDEX).fetchone()
    return bool(found and found[0])


def planned_chains(connection: Connection, *, net: bool) -> tuple[ChainChange, ...]:
    """Return what changes in each chain, ordered by chain.

    :raises ApgmsError: ``rollback.does_not_add_up``
    """
    _require_sums(connection)
    return tuple(
        ChainChange._make((*row, 1 if net else row[5]))
        for row in connection.execute(_CHANGES, {"net": net})
    )


def target_balances_digest(connection: Connection) -> str:
    """Return the digest of the target's balances."""
    return balances_digest(connection.cursor().stream(_TARGET_BALANCES, size=ROWS_AT_ONCE))


def append_mirrors(connection: Connection, *, net: bool, first_id: int | None = None) -> None:
    """Append the mirrored rows and record which row mirrors which.

    :param first_id: number the rows from here instead of drawing from the sequence, which a
        transaction that is rolled back would leave advanced
    :raises psycopg.IntegrityError: where the deployment's constraints do not allow such rows
    :raises ApgmsError: ``rollback.rows_altered``
    """
    last_id = next_free_id(connection) - 1
    written = hashlib.sha256()
    with connection.cursor("rollback_originals") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(_TO_MIRROR)
        found = mirrors((Original(*row) for row in cursor), net=net)
        while chunk := list(islice(found, ROWS_AT_ONCE)):
            lines = [line(_texts(mirror.row)) for mirror in chunk]
            _copy_rows(connection, lines, first_id)
            _copy_mapping(connection, chunk)
            written.update(b"".join(lines))
            first_id = None if first_id is None else first_id + len(chunk)
    if _digest_after(connection, last_id) != written.digest():
        raise _altered()


def require_target_balances(connection: Connection) -> str:
    """Prove that every chain now stands at the target's balance; return the digest of all of them.

    :raises ApgmsError: ``rollback.unproven``
    """
    connection.execute(_NOW)
    wrong = connection.execute(_WRONG_BALANCES, [SHOWN_CHAINS]).fetchall()
    if wrong:
        raise ApgmsError(
            "rollback.unproven",
            "The rollback would not reach the target's balances; nothing was changed",
            where=", ".join(f"{' '.join(row[:3])}" for row in wrong),
            why=", ".join(f"{now} cents instead of {then}" for *_chain, now, then in wrong),
            mend="have these chains looked at: scripts/check_ledger.sh prod names rows that do not"
            " follow the chain rule",
        )
    return balances_digest(connection.cursor().stream(_BALANCES_NOW, size=ROWS_AT_ONCE))


def next_free_id(connection: Connection) -> int:
    """Return an id above every row of the ledger."""
    row = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM owa_ledger").fetchone()
    return int(row[0]) if row else 1


def _require_sums(connection: Connection) -> None:
    wrong = connection.execute(_WRONG_SUMS, [SHOWN_CHAINS]).fetchall()
    if wrong:
        raise ApgmsError(
            "rollback.does_not_add_up",
            "The target cannot be reached by mirroring; nothing was changed",
            where=", ".join(" ".join(row[:3]) for row in wrong),
            why="; ".join(
                f"today's balance {now} less the rows since the target, {since}, is not the"
                f" target's {then}"
                for *_chain, now, since, then in wrong
            ),
            mend="a row of these chains does not carry its balance on: scripts/check_ledger.sh prod"
            " names it; choose an earlier target, before that row",
        )


def _copy_rows(connection: Connection, lines: list[bytes], first_id: int | None) -> None:
    """Append rows, each a line of COPY's text format without its id."""
    names = [*MirrorRow._fields, *([] if first_id is None else ["id"])]
    copy = sql.SQL("COPY owa_ledger ({}) FROM STDIN").format(
        sql.SQL(", ").join(map(sql.Identifier, names))
    )
    if first_id is not None:
        lines = [b"%b\t%d\n" % (row[:-1], first_id + offset) for offset, row in enumerate(lines)]
    with connection.cursor().copy(copy) as ledger:
        ledger.write(b"".join(lines))


def _digest_after(connection: Connection, last_id: int) -> bytes:
    """Return the SHA-256 of the ledger's rows above an id, as they were to be written."""
    query = sql.SQL("COPY (SELECT {} FROM owa_ledger WHERE id > {} ORDER BY id) TO STDOUT").format(
        sql.SQL(", ").join(map(sql.Identifier, MirrorRow._fields)), sql.Literal(last_id)
    )
    digest = hashlib.sha256()
    with connection.cursor().copy(query) as rows:
        for row in rows:
            digest.update(row)
    return digest.digest()


def _altered() -> ApgmsError:
    return ApgmsError(
        "rollback.rows_altered",
        "The mirrored rows are not in the ledger as they were written; nothing was changed",
        where="owa_ledger",
        why="a trigger or rule of the deployment altered or dropped them",
        mend="have the database's owner name what alters inserted rows: psql -c"
        " '\\d owa_ledger' lists the triggers and rules",
    )


def _texts(row: tuple[str | int | None, ...]) -> list[str | None]:
    return [None if value is None else str(value) for value in row]


def _copy_mapping(connection: Connection, chunk: list[Mirror]) -> None:
    copy = "COPY apgms_release.mirror (original_id, mirror_uuid) FROM STDIN"
    lines = (
        f"{original_id}\t{row.transfer_uuid}\n"
        for row, original_ids in chunk
        for original_id in original_ids
    )
    with connection.cursor().copy(copy) as table:
        table.write("".join(lines))


# an extent without a list has all ids from its first to its last; a range that ends at the highest
# id there is has no end, as none can stand behind it
_KEPT = """
SELECT coalesce(range_agg(int8range(first, nullif(last, %(most)s), '[]')), '{}')::text FROM (
    SELECT first_id, last_id, ids, %(size)s - first_position AS rows
    FROM apgms_release.ledger_extent WHERE origin = %(origin)s AND first_position < %(size)s
) AS extent CROSS JOIN LATERAL (
    SELECT first_id, first_id + least(rows - 1, last_id - first_id) WHERE ids IS NULL
    UNION ALL SELECT id, id FROM unnest(ids[:least(rows, cardinality(ids))::int]) AS id
) AS span (first, last)
"""
_DROP = (
    "DROP TABLE IF EXISTS pg_temp.rollback_original, pg_temp.rollback_standing,"
    " pg_temp.rollback_chain, pg_temp.rollback_now"
)
_ANALYZE = ("ANALYZE rollback_original", "ANALYZE rollback_chain")
_ORIGINALS = """
CREATE TEMP TABLE rollback_original ON COMMIT DROP AS
SELECT id, abn, tax_type, period_id, transfer_uuid, amount_cents FROM owa_ledger l
WHERE NOT id::bigint <@ {kept}::int8multirange
  AND NOT EXISTS (SELECT FROM apgms_release.mirror m WHERE m.original_id = l.id)
  AND NOT EXISTS (SELECT FROM apgms_release.mirror m WHERE m.mirror_uuid = l.transfer_uuid)
"""
_STANDING = """
CREATE TEMP TABLE rollback_standing ON COMMIT DROP AS SELECT * FROM rollback_original LIMIT 0
"""
_PAID_SINCE = """
SELECT DISTINCT payload_sha256 FROM apgms_release.claim
JOIN rollback_original USING (abn, tax_type, period_id)
WHERE outcome = 'accepted' AND manifest_sha256 = ANY(%s)
"""
_KEEP = """
WITH taken AS (
    DELETE FROM rollback_original WHERE transfer_uuid = ANY(%(uuids)s::uuid[]) RETURNING *),
kept AS (INSERT INTO rollback_standing SELECT * FROM taken RETURNING *),
settled AS (
    UPDATE rollback_chain c SET target_balance_cents = target_balance_cents + amount_cents
    FROM taken t WHERE (c.abn, c.tax_type, c.period_id) = (t.abn, t.tax_type, t.period_id))
SELECT count(*), coalesce(sum(amount_cents), 0)::bigint FROM kept
"""
_CHAINS = """
CREATE TEMP TABLE rollback_chain ON COMMIT DROP AS
WITH tail AS (
    SELECT abn, tax_type, period_id, max(id) AS tail_id,
           max(id) FILTER (WHERE id::bigint <@ {kept}::int8multirange) AS target_id
    FROM owa_ledger GROUP BY abn, tax_type, period_id)
SELECT tail.*, today.balance_after_cents AS balance_cents, today.hash_after AS tail_hash,
       coalesce(target.balance_after_cents, 0) AS target_balance_cents
FROM tail JOIN owa_ledger today ON today.id = tail_id
LEFT JOIN owa_ledger target ON target.id = target_id
"""
_ONE_ROW_INDEX = """
SELECT EXISTS (
    SELECT FROM pg_index i
    WHERE i.indrelid = to_regclass('owa_ledger') AND i.indisunique AND i.indisvalid
      AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
           FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS key(number)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number)
          = ARRAY['abn', 'period_id', 'tax_type'])
"""
_SINCE = """
    SELECT abn, tax_type, period_id, count(*) AS originals, sum(amount_cents)::bigint AS cents,
           coalesce(sum(amount_cents) FILTER (WHERE amount_cents > 0), 0)::bigint AS credits,
           coalesce(sum(amount_cents) FILTER (WHERE amount_cents < 0), 0)::bigint AS debits
    FROM rollback_original GROUP BY abn, tax_type, period_id
"""
_CHANGES = f"""
SELECT abn, tax_type, period_id, balance_cents, target_balance_cents, originals, credits, debits
FROM rollback_chain JOIN ({_SINCE}) AS since USING (abn, tax_type, period_id)
WHERE cents <> 0 OR NOT %(net)s
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C"
"""  # noqa: S608
_WRONG_SUMS = f"""
SELECT abn, tax_type, period_id, balance_cents, coalesce(cents, 0), target_balance_cents
FROM rollback_chain LEFT JOIN ({_SINCE}) AS since USING (abn, tax_type, period_id)
WHERE balance_cents - coalesce(cents, 0) <> target_balance_cents
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C" LIMIT %s
"""  # noqa: S608
_TO_MIRROR = """
SELECT abn, tax_type, period_id, id, transfer_uuid::text, amount_cents, balance_cents, tail_hash
FROM rollback_original JOIN rollback_chain USING (abn, tax_type, period_id)
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C", id DESC
"""
_TARGET_BALANCES = """
SELECT abn, tax_type, period_id, target_balance_cents FROM rollback_chain
WHERE target_balance_cents <> 0
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C"
"""
_NOW = """
CREATE TEMP TABLE rollback_now ON COMMIT DROP AS
SELECT abn, tax_type, period_id, l.balance_after_cents AS balance_cents
FROM (SELECT max(id) AS id FROM owa_ledger GROUP BY abn, tax_type, period_id) AS tail
JOIN owa_ledger l USING (id)
"""
_BALANCES_NOW = """
SELECT abn, tax_type, period_id, balance_cents FROM rollback_now WHERE balance_cents <> 0
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C"
"""
_WRONG_BALANCES = """
SELECT abn, tax_type, period_id, now.balance_cents, target_balance_cents
FROM rollback_now AS now JOIN rollback_chain USING (abn, tax_type, period_id)
WHERE now.balance_cents <> target_balance_cents
ORDER BY abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C" LIMIT %s
"""
