# GNU General Public License v3.0+ (see COPYING)
"""The schema ``apgms_release``: what the collection itself keeps in the database of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...domain.formats.canonical import sha256_hex
from ...errors import ApgmsError
from . import bundles, log, policies, releases, rollbacks

if TYPE_CHECKING:
    from ..database import Connection

MIGRATIONS: dict[str, str] = {
    **releases.MIGRATIONS,
    **log.MIGRATIONS,
    **policies.MIGRATIONS,
    **rollbacks.MIGRATIONS,
    **bundles.MIGRATIONS,
}
LOCK_KEY = 0x6170676D73  # "apgms", for pg_advisory_xact_lock


def migrate(connection: Connection) -> list[str]:
    """Bring ``apgms_release`` up to date in one transaction; return the names of what was applied.

    :raises ApgmsError: ``schema.foreign`` where a migration was applied with another text
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        applied = _applied(connection)
        for name in applied.keys() & MIGRATIONS.keys():
            if applied[name] != sha256_hex(MIGRATIONS[name].encode()):
                raise _foreign(name)
        missing = [name for name in MIGRATIONS if name not in applied]
        if missing and not applied:
            connection.execute(_BOOTSTRAP)
        for name in missing:
            connection.execute(MIGRATIONS[name].encode())
            connection.execute(
                "INSERT INTO apgms_release.migration (name, sha256) VALUES (%s, %s)",
                [name, sha256_hex(MIGRATIONS[name].encode())],
            )
    return missing


_BOOTSTRAP = """
CREATE SCHEMA IF NOT EXISTS apgms_release;
CREATE TABLE IF NOT EXISTS apgms_release.migration (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


def _applied(connection: Connection) -> dict[str, str]:
    found = connection.execute("SELECT to_regclass('apgms_release.migration')").fetchone()
    if found is None or found[0] is None:
        return {}
    return dict(connection.execute("SELECT name, sha256 FROM apgms_release.migration").fetchall())


def _foreign(name: str) -> ApgmsError:
    return ApgmsError(
        "schema.foreign",
        "The schema apgms_release was made by another version of the collection",
        where=f"apgms_release.migration, row {name}",
        why="the migration of this name was applied with another text",
        mend="use the collection version that the last release's manifest names",
    )
