# GNU General Public License v3.0+ (see COPYING)
"""The PostgreSQL of a stack: connection, faults in the operator's words, what columns there are.

Connections are in autocommit; every write stands in an explicit ``connection.transaction()``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ApgmsError
from ..libraries import psycopg

if TYPE_CHECKING:
    Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS = 10
_BROKEN = ("08", "57P01", "57P02", "57P03")
"""How the SQLSTATE of a fault begins that ended the connection, or kept it from being made."""
_TIMEOUTS = {
    "57014": "statement_timeout",
    "55P03": "lock_timeout",
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "57P05": "idle_session_timeout",
}
"""SQLSTATE to the setting of the database or the role that sets the limit."""
_CONFLICTS = ("40001", "40P01")
_MENDS = {
    "password authentication failed|no password supplied": (
        "read -rs APGMS_DATABASE_PASSWORD; export APGMS_DATABASE_PASSWORD  # or set "
        "apgms_database_password, or correct the user in apgms_database_url"
    ),
    "certificate verify failed|root certificate file": (
        "have sslrootcert in apgms_database_url name the certificate (PEM) of the CA that signed "
        "the server's"
    ),
    'role ".*" does not exist': (
        "correct the user in apgms_database_url, or have the owner of the database create the role"
    ),
    'database ".*" does not exist': (
        "correct the name of the database in apgms_database_url, or have it created"
    ),
}
"""Words of libpq and the server to what mends a connection that they refused."""
_READ_ONLY = "25006"
_NO_RIGHT = "42501"


@contextmanager
def connect(url: str, password: str | None, *, purpose: str) -> Iterator[Connection]:
    """Yield a connection in autocommit, UTC, UTF-8, named for its purpose.

    :param url: libpq URL or keywords, without a password
    :raises ApgmsError: ``database.password_in_url``, ``database.unreachable``,
        ``database.interrupted``, ``database.missing_table``, ``database.refused``
    """
    _refuse_password(url)
    with _faults(url):
        options: dict[str, Any] = {} if password is None else {"password": password}
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=f"apgms.release {purpose}",
            client_encoding="UTF8",
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

    Of a domain it is the type below, however many domains stand between.

    :raises ApgmsError: ``database.missing_table``
    """
    rows = connection.execute(
        "WITH RECURSIVE kind (attnum, attname, type, modifier) AS ("
        "  SELECT attnum, attname, atttypid, atttypmod FROM pg_attribute"
        "  WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        "  UNION ALL SELECT attnum, attname, typbasetype, typtypmod"
        "  FROM kind JOIN pg_type ON oid = type AND typtype = 'd')"
        " SELECT attname, format_type(type, modifier) FROM kind JOIN pg_type ON oid = type"
        " WHERE typtype <> 'd' ORDER BY attnum",
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
    except psycopg.Error as error:
        raise _fault(url, error) from error


def _fault(url: str, error: psycopg.Error) -> ApgmsError:
    code = error.sqlstate or ""
    why = " ".join(str(error).split())
    if code in _TIMEOUTS or code in _CONFLICTS:
        return ApgmsError(
            "database.interrupted",
            "The database broke off a statement; its transaction was rolled back",
            where=url,
            why=why,
            mend=_mend_interruption(url, _TIMEOUTS.get(code)),
        )
    if code.startswith(_BROKEN) or (not code and isinstance(error, psycopg.OperationalError)):
        return ApgmsError(
            "database.unreachable",
            "The database cannot be reached, or the connection to it broke",
            where=url,
            why=why,
            mend=f"{_mend_connection(url, why)}; then run the same command again",
        )
    return ApgmsError(
        "database.refused",
        "The database refused a statement; its transaction was rolled back",
        where=url,
        why=why,
        mend=_mend_refusal(url, code),
    )


def _mend_connection(url: str, why: str) -> str:
    """Return what mends a connection; while it is being made, the words of its fault are all."""
    for words, mend in _MENDS.items():
        if re.search(words, why):
            return mend
    parts = psycopg.conninfo.conninfo_to_dict(url)
    host, port = parts.get("host", "localhost"), parts.get("port", 5432)
    return f"start PostgreSQL at {host}, port {port}, or correct apgms_database_url"


def _mend_interruption(url: str, setting: str | None) -> str:
    again = "run the same command again"
    if setting is None:
        return again
    return (
        f"{_alter_role(url, setting, '0')}  # no limit; then {again}. If it was not the limit but "
        f"somebody who cancelled it, {again}"
    )


def _mend_refusal(url: str, code: str) -> str:
    if code == _READ_ONLY:
        writable = _alter_role(url, "default_transaction_read_only", "off")
        return f"point apgms_database_url at the primary, not a standby; if it is: {writable}"
    if code == _NO_RIGHT:
        return (
            "have the owner of the database grant the role of apgms_database_url what the database "
            "names, then run the same command again"
        )
    return "correct what the database names, then run the same command again"


def _alter_role(url: str, setting: str, value: str) -> str:
    return f"psql -d '{url}' -c 'ALTER ROLE CURRENT_USER SET {setting} = {value}'"


def _missing_table(table: str, where: str) -> ApgmsError:
    return ApgmsError(
        "database.missing_table",
        "An APGMS table is missing",
        where=f"database {where}",
        why=f"no table {table}" if "relation" not in table else table,
        mend="make seed STACK=proto"
        if "apgms_sandbox." in table
        else "point apgms_database_url at the APGMS database, or run its migrations",
    )
