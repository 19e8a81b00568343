from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import columns, connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate


def test_columns_are_read_in_table_order(database_url: str) -> None:
    with connect(database_url, None, purpose="test") as connection:
        found = columns(connection, "owa_ledger")
    assert list(found)[:2] == ["id", "abn"]
    assert found["amount_cents"] == "bigint"


def test_missing_table_is_named(database_url: str) -> None:
    with (
        connect(database_url, None, purpose="test") as connection,
        pytest.raises(ApgmsError, match="no table nowhere") as error,
    ):
        columns(connection, "nowhere")
    assert error.value.reason == "database.missing_table"


def test_unreachable_database_is_one_message() -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect("postgresql://127.0.0.1:1/apgms", None, purpose="test"),
    ):
        pass
    assert error.value.reason == "database.unreachable"
    assert "pg_isready" in str(error.value)


def test_password_in_the_url_is_refused_without_showing_it() -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect("postgresql://a:hunter2@127.0.0.1:1/apgms", None, purpose="test"),
    ):
        pass
    assert error.value.reason == "database.password_in_url"
    assert "hunter2" not in str(error.value)


def test_migrating_twice_applies_nothing_the_second_time(database_url: str) -> None:
    with connect(database_url, None, purpose="test") as connection:
        migrate(connection)
        assert migrate(connection) == []


def _wait(connection: Any) -> None:
    connection.execute("SELECT pg_sleep(30)")


def _cancelled(connection: Any) -> None:
    threading.Timer(0.2, connection.cancel).start()
    _wait(connection)


def _copy(connection: Any) -> None:
    rows = "SELECT pg_sleep(0.01) FROM generate_series(1, 1000)"
    with connection.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy:
        list(copy)


def _locked_out(connection: Any) -> None:
    with psycopg.connect(connection.info.dsn) as other:
        other.execute("LOCK TABLE owa_ledger")
        connection.execute("SELECT count(*) FROM owa_ledger")


def _idle(connection: Any) -> None:
    with connection.transaction():
        connection.execute("SELECT 1")
        time.sleep(0.3)
        connection.execute("SELECT 2")


@pytest.mark.parametrize(
    ("setting", "act"),
    [
        ("statement_timeout", _wait),
        ("statement_timeout", _copy),
        ("statement_timeout", _cancelled),
        ("lock_timeout", _locked_out),
        ("idle_in_transaction_session_timeout", _idle),
        ("transaction_timeout", _idle),
    ],
)
def test_a_limit_of_the_role_is_named_with_what_lifts_it(
    database_url: str, setting: str, act: Any
) -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect(database_url, None, purpose="test") as connection,
    ):
        if act is not _cancelled:
            connection.execute(f"SET {setting} = '50ms'")
        act(connection)
    assert error.value.reason == "database.interrupted"
    mend = f"ALTER ROLE CURRENT_USER SET {setting} = 0"
    assert mend in str(error.value)
    with psycopg.connect(database_url) as connection:
        connection.execute(mend)  # type: ignore[arg-type]
        connection.rollback()


@pytest.mark.parametrize(
    ("code", "reason", "mend"),
    [
        ("40P01", "database.interrupted", "Mend: run the same command again"),
        ("53100", "database.refused", "correct what the database names"),
        ("25006", "database.refused", "not a standby"),
        ("42501", "database.refused", "grant the role"),
        ("57P01", "database.unreachable", "pg_isready"),
    ],
)
def test_each_fault_says_what_it_is(database_url: str, code: str, reason: str, mend: str) -> None:
    with (
        pytest.raises(ApgmsError, match=mend) as error,
        connect(database_url, None, purpose="test") as connection,
    ):
        connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")
    assert error.value.reason == reason
