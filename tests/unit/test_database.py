from __future__ import annotations

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
