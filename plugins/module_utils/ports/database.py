# GNU General Public License v3.0+ (see COPYING)
"""The PostgreSQL of a stack: connection, faults in the operator's words, what columns there are.

Connections are in autocommit; every write stands in an explicit ``connection.transaction()``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ApgmsError
from ..libraries import psycopg

if TYPE_CHECKING:
    Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS = 10


@contextmanager
def connect(url: str, password: str | None, *, purpose: str) -> Iterator[Connection]:
    """Yield a connection in autocommit, UTC, named for its purpose.

    :param url: libpq URL or keywords, without a password
    :raises ApgmsError: ``database.password_in_url``, ``database.unreachable``,
        ``database.missing_table``, ``database.refused``
    """
    _refuse_password(url)
    with _faults(url):
        options: dict[str, Any] = {} if password is None else {"password": password}
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=f"apgms.release {purpose}",
            **options,
        )
        with connection:
            connection.execute("SET TIME ZONE 'UTC'")
            yield connection


@contextmanager
def rehearsal(connection: Connection) -> Iterator[None]:
    """Run what stands inside for its prediction: all its writes are rolled back."""
    with connection.transaction(force_rollback=True):
        yield


@contextmanager
def whole_tables(connection: Connection) -> Iterator[None]:
    """Plan joins over whole tables, inside a transaction, without nested loops.

    Tables that were loaded a moment ago have no statistics; the planner takes them for a few rows.
    """
    connection.execute("SET LOCAL enable_nestloop = off")
    yield
    connection.execute("SET LOCAL enable_nestloop = DEFAULT")


def columns(connection: Connection, table: str) -> dict[str, str]:
    """Return the columns of an APGMS table with their types, in table order.

    :raises ApgmsError: ``database.missing_table``
    """
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    ).fetchall()
    if not rows:
        raise _missing_table(table, connection.info.dbname)
    return {str(name): str(kind) for name, kind in rows}


def _refuse_password(url: str) -> None:
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise ApgmsError(
            "database.malformed_url",
            "The database address cannot be read",
            where="database_url",
            why=str(error).strip(),
            mend="set apgms_database_url to postgresql://USER@HOST:PORT/NAME",
        ) from None
    if "password" in parts:
        raise ApgmsError(
            "database.password_in_url",
            "The database address carries a password",
            where="database_url",
            why="addresses are shown in logs and results; passwords never are",
            mend="take it out of apgms_database_url and set apgms_database_password",
        )


@contextmanager
def _faults(url: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise _missing_table(str(error.diag.message_primary), url) from error
    except psycopg.OperationalError as error:
        raise ApgmsError(
            "database.unreachable",
            "The database cannot be reached, or the connection to it broke",
            where=url,
            why=" ".join(str(error).split()),
            mend=f"pg_isready -d '{url}'  # then run the same command again",
        ) from error
    except psycopg.Error as error:
        raise ApgmsError(
            "database.refused",
            "The database refused a statement; its transaction was rolled back",
            where=url,
            why=" ".join(str(error).split()),
            mend="correct what the database names, then run the same command again",
        ) from error


def _missing_table(table: str, where: str) -> ApgmsError:
    return ApgmsError(
        "database.missing_table",
        "An APGMS table is missing",
        where=f"database {where}",
        why=f"no table {table}" if "relation" not in table else table,
        mend="point apgms_database_url at the APGMS database, or run its migrations",
    )
