"""The journal against a real database and a folder of objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import ObjectStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with connect(database_url, None, purpose="test") as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def journal(connection: Connection, store: ObjectStore, stack: str = "prod") -> Journal:
    return Journal(connection, store, stack, DatabaseClock(connection))


def record(connection: Connection, store: ObjectStore, *events: str) -> None:
    for event in events:
        with connection.transaction():
            journal(connection, store).record(event, {})


def refusal(act: object, *arguments: object) -> str:
    with pytest.raises(ApgmsError) as error:
        act(*arguments)  # type: ignore[operator]
    return error.value.reason


def test_each_row_stands_in_both_places(connection: Connection, store: FolderStore) -> None:
    record(connection, store, "a", "b", "c")
    rows = list(journal(connection, store).rows())
    assert [row.seq for row in rows] == [1, 2, 3]
    for row in rows:
        with store.open(row.key) as stored:
            assert stored.read() == row.document
    journal(connection, store).verify()


def test_a_row_cannot_be_changed_or_deleted(connection: Connection, store: FolderStore) -> None:
    record(connection, store, "a")
    for statement in ("UPDATE {} SET event = 'x'", "DELETE FROM {}", "TRUNCATE {} CASCADE"):
        with pytest.raises(psycopg.Error, match="append-only"):
            connection.execute(statement.format("apgms_release.journal").encode())


def test_a_transaction_that_dies_leaves_the_store_ahead(
    connection: Connection, store: FolderStore
) -> None:
    record(connection, store, "a")
    with pytest.raises(ZeroDivisionError), connection.transaction():
        journal(connection, store).record("b", {})
        raise ZeroDivisionError
    assert [row.event for row in journal(connection, store).ahead()] == ["b"]
    assert refusal(journal(connection, store).verify) == "journal.store_ahead"
    assert refusal(record, connection, store, "c") == "journal.store_ahead"
    with connection.transaction():
        journal(connection, store).adopt(journal(connection, store).ahead())
    record(connection, store, "c")
    journal(connection, store).verify()


def test_another_row_at_a_number_is_a_fork(
    connection: Connection, store: FolderStore, tmp_path: Path
) -> None:
    record(connection, store, "a", "b")
    (tmp_path / "journal/0000000000000002").write_bytes(
        next(journal(connection, store).rows()).document
    )
    assert refusal(journal(connection, store).verify) == "journal.fork"
    assert refusal(journal(connection, store).ahead) == "journal.fork"
    assert refusal(record, connection, store, "c") == "journal.fork"


def test_a_row_ahead_that_does_not_follow_is_a_fork(
    connection: Connection, store: FolderStore, tmp_path: Path
) -> None:
    record(connection, store, "a")
    elsewhere = FolderStore(tmp_path / "elsewhere")
    with rehearsal(connection):
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM apgms_release.journal")
        record(connection, elsewhere, "x", "y")
    store.put_new("journal/0000000000000002", _bytes(elsewhere, 2))
    assert refusal(journal(connection, store).ahead) == "journal.fork"


def test_a_store_that_lost_a_row_is_refused(
    connection: Connection, store: FolderStore, tmp_path: Path
) -> None:
    record(connection, store, "a", "b")
    (tmp_path / "journal/0000000000000002").unlink()
    assert refusal(journal(connection, store).ahead) == "journal.store_behind"
    assert refusal(record, connection, store, "c") == "journal.store_behind"


def test_an_altered_row_of_the_database_is_named(
    connection: Connection, store: FolderStore
) -> None:
    record(connection, store, "a", "b", "c")
    connection.execute("SET session_replication_role = replica")
    connection.execute("UPDATE apgms_release.journal SET event = 'x' WHERE seq = 2")
    with pytest.raises(ApgmsError, match="row 2") as error:
        journal(connection, store).verify()
    assert error.value.reason == "journal.broken"


def test_another_stack_is_refused(connection: Connection, store: FolderStore) -> None:
    record(connection, store, "a")
    proto = journal(connection, store, "proto")
    assert refusal(proto.ahead) == "journal.other_stack"
    with pytest.raises(ApgmsError) as error, connection.transaction():
        proto.record("b", {})
    assert error.value.reason == "journal.other_stack"


def test_a_rehearsal_leaves_no_row(connection: Connection, store: FolderStore) -> None:
    with rehearsal(connection):
        record(connection, OverlayStore(store), "a", "b")
    assert list(journal(connection, store).rows()) == []
    assert list(store.keys("journal/")) == []


def _bytes(store: FolderStore, seq: int) -> bytes:
    with store.open(f"journal/{seq:016d}") as stream:
        return stream.read()
