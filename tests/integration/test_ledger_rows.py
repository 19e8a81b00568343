# GNU General Public License v3.0+ (see COPYING)
"""The stream of ledger rows, how it ends, and what is said while it runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ansible_collections.apgms.release.plugins.module_utils.usecases.acts import progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    snapshot as snapshots,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.rows import copied
from tests.ledgers import LedgerWriter, Stack, make_stack

ROWS = 2000


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    stack = make_stack(database_url, tmp_path)
    with psycopg.connect(database_url, autocommit=True) as connection:
        LedgerWriter().load(connection, ROWS)
    return stack


def test_a_stream_ends_with_its_last_row_and_leaves_the_connection_free(stack: Stack) -> None:
    with stack.connection() as connection, connection.transaction():
        for _ in range(2):
            found = [int(row) for row in copied(connection, ["id"], sql.SQL("true"))]
            assert found == list(range(1, ROWS + 1))


def test_a_stream_that_is_left_early_leaves_the_connection_free(stack: Stack) -> None:
    with stack.connection() as connection:
        with closing(copied(connection, ["id"], sql.SQL("true"))) as rows:
            assert next(rows) == b"1\n"
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stream_that_the_server_breaks_off_raises(stack: Stack) -> None:
    with psycopg.connect(stack.url, autocommit=True) as connection:
        connection.execute("SET enable_sort = off")  # rows are sent before the fault
        for faulty in (1, 7, ROWS):
            where = sql.SQL("1 / (id - {}) >= 0 OR id < {}").format(faulty, faulty)
            with pytest.raises(psycopg.errors.DivisionByZero):
                list(copied(connection, ["id"], where))


def test_a_snapshot_says_how_far_it_is(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(snapshots, "MANY_ROWS", ROWS)
    said: list[str] = []
    stack.snapshot(progress=progress.Progress(said.append))
    stack.snapshot(verify="full", progress=progress.Progress(said.append))
    assert [line.partition(" rows (")[0] for line in said] == [
        "Checking the chains of 2,000 rows",
        "Admitting ledger rows: 2,000 of 2,000",
        "Checking the chains of 2,000 rows",
        "Verifying ledger rows: 2,000 of 2,000",
    ]
