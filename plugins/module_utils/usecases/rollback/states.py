# GNU General Public License v3.0+ (see COPYING)
"""Take ``periods`` and ``rpt_tokens`` back to the image that a manifest binds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from ...domain.ledger.chain import Chain
from ...domain.release.manifest import Manifest, object_key
from ...domain.release.restoration import FRESH_COLUMNS, Columns, StateChange, state_changes
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.database import columns
from ...ports.object_store import CHUNK_BYTES, ObjectStore
from ..bundle.image import image_rows

if TYPE_CHECKING:
    from ...ports.database import Connection

SHOWN = 10


def planned_states(
    connection: Connection, store: ObjectStore, manifest: Manifest, held: Collection[Chain]
) -> tuple[StateChange, ...]:
    """Return what restoring the image of ``manifest`` changes.

    :param held: chains with a submission that the authority holds or may hold
    :raises ApgmsError: ``rollback.unusable_image``, ``object_store.missing``
    """
    _require_image(store, manifest)
    fresh = _fresh_period(connection)
    try:
        with store.open(object_key(manifest.checksum, "image.jsonl")) as lines:
            return tuple(state_changes(lines, image_rows(connection), held, fresh))
    except ValueError as error:
        raise _unusable(store, manifest, str(error)) from None


def require_restored(
    connection: Connection, store: ObjectStore, manifest: Manifest, held: Collection[Chain]
) -> None:
    """Prove that nothing is left to restore.

    :raises ApgmsError: ``rollback.states_altered``
    """
    left = planned_states(connection, store, manifest, held)
    if left:
        raise ApgmsError(
            "rollback.states_altered",
            "Periods or tokens would not be the target's; nothing was changed",
            where=", ".join(
                f"{change.table} {change.id}: {', '.join(change.after)}" for change in left[:SHOWN]
            ),
            why="a trigger or rule of the deployment altered or dropped what was restored",
            mend="have the database's owner name what alters updated rows: psql -c '\\d periods'"
            " -c '\\d rpt_tokens' lists the triggers and rules",
        )


def restore_states(connection: Connection, changes: Iterable[StateChange]) -> None:
    """Write planned changes, inside the caller's open transaction."""
    kinds: dict[str, dict[str, str]] = {}
    with connection.pipeline(), connection.cursor() as cursor:
        for change in changes:
            if change.table not in kinds:
                kinds[change.table] = columns(connection, change.table)
            types = kinds[change.table]
            if change.action == "put back":
                cursor.execute(*_insert(change, types))
            else:
                cursor.execute(*_update(change, types))


def _fresh_period(connection: Connection) -> Columns:
    """Return the column defaults of ``periods`` in text form."""
    present = [name for name in columns(connection, "periods") if name in FRESH_COLUMNS]
    defaults: dict[str, list[str | None]] = dict(
        connection.execute(_DEFAULTS, [present]).fetchall()
    )
    expressions = [
        sql.SQL("({})::{}::text").format(sql.SQL(default or "NULL"), sql.SQL(kind or "text"))
        for default, kind in (defaults[name] for name in present)
    ]
    row = connection.execute(
        sql.SQL("SELECT {}").format(sql.SQL(", ").join(expressions))
    ).fetchone()
    return dict(zip(present, row or (), strict=True))


_DEFAULTS = """
SELECT a.attname, ARRAY[pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod)]
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass('periods') AND a.attname = ANY(%s)
"""


def _require_image(store: ObjectStore, manifest: Manifest) -> None:
    key = object_key(manifest.checksum, "image.jsonl")
    digest = hashlib.sha256()
    with store.open(key) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != manifest.image_sha256:
        why = f"its SHA-256 is {digest.hexdigest()}, the manifest says {manifest.image_sha256}"
        raise _unusable(store, manifest, why)


def _unusable(store: ObjectStore, manifest: Manifest, why: str) -> ApgmsError:
    return ApgmsError(
        "rollback.unusable_image",
        "The target's image of periods and tokens cannot be used; nothing was changed",
        where=f"{store.url}/{object_key(manifest.checksum, 'image.jsonl')}",
        why=why,
        mend="restore the object from the audit store's copy, then run the same command again",
    )


def _update(change: StateChange, types: dict[str, str]) -> tuple[sql.Composed, list[str | None]]:
    assignments = [
        sql.SQL("{} = %s::{}").format(sql.Identifier(name), sql.SQL(types[name]))
        for name in change.after
    ]
    query = sql.SQL("UPDATE {} SET {} WHERE id = %s::bigint").format(
        sql.Identifier(change.table), sql.SQL(", ").join(assignments)
    )
    return query, [*change.after.values(), change.id]


def _insert(change: StateChange, types: dict[str, str]) -> tuple[sql.Composed, list[str | None]]:
    row = {name: value for name, value in change.after.items() if name in types}
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(change.table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(types[name])) for name in row),
    )
    return query, list(row.values())
