# GNU General Public License v3.0+ (see COPYING)
"""A backup of a stack's database, and the database restored from it, all sessions ended."""

from __future__ import annotations

from tests.faults.stack import Connection, Stack, tables

_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, 0)
FROM pg_sequences WHERE schemaname IN ('public', 'apgms_release')
"""


class Backup:
    """What the database of ``stack`` held at one moment."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        with stack.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self._tables = tables(connection)
            connection.execute("DROP SCHEMA IF EXISTS backup CASCADE")
            connection.execute("CREATE SCHEMA backup")
            for table in self._tables:
                connection.execute(f"CREATE TABLE {_kept(table)} AS TABLE {table}".encode())
            self._sequences = connection.execute(_SEQUENCES.encode()).fetchall()

    def restore(self) -> None:
        """Put it back; what was written since is forgotten."""
        self._stack.end_sessions()
        with self._stack.connection() as connection, connection.transaction():
            _without_triggers(connection)
            connection.execute(f"TRUNCATE {', '.join(self._tables)} CASCADE".encode())
            for table in self._tables:
                restored = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE {_kept(table)}"
                connection.execute(restored.encode())
            for sequence, value in self._sequences:
                connection.execute("SELECT setval(%s, %s, %s)", [sequence, value or 1, value > 0])


def _kept(table: str) -> str:
    return f'backup."{table}"'


def _without_triggers(connection: Connection) -> None:
    connection.execute("SET LOCAL session_replication_role = replica")
