"""Ledgers with ids at the ends of 64 bits: every operation of the log works on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    check_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.intact import (
    require_intact,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.origin import (
    log_in_force,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.restore import (
    find_damage,
    put_back,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.rows import (
    extents_between,
)
from tests.ledgers import (
    LedgerWriter,
    Stack,
    fill,
    insert_as,
    make_stack,
    verify_all_chains,
)

LEAST, MOST = -(2**63), 2**63 - 1
ENDS = {
    "least": [LEAST],
    "most": [MOST],
    "both": [LEAST, LEAST + 1, LEAST + 5, MOST - 4, MOST - 3, MOST],
}

all_ends = pytest.mark.parametrize("ends", ENDS)


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


@pytest.fixture
def writer() -> LedgerWriter:
    return LedgerWriter(chains=1)


def insert_at(stack: Stack, writer: LedgerWriter, row_ids: list[int]) -> None:
    for row_id in row_ids:
        insert_as(stack, row_id, writer.row())


def require_sound(stack: Stack, rows: int) -> None:
    """Require of every reader of the log that it finds nothing."""
    verify_all_chains(stack)
    with stack.connection() as connection:
        require_intact(connection, stack.store, stack.policy)
        log = log_in_force(stack.store, stack.policy)
        assert find_damage(connection, log).words == "none"
        found = check_ledger(connection, stack.store, stack.policy)
        assert (found.rows, found.admitted) == (rows, rows)
        assert not any("row" in problem.split(":")[0] for problem in found.problems)
    assert stack.snapshot(verify="full").tree_size == rows


@all_ends
def test_they_are_admitted_first_and_found_sound(
    stack: Stack, writer: LedgerWriter, ends: str
) -> None:
    below = [one for one in ENDS[ends] if one < 0]
    insert_at(stack, writer, below)
    fill(stack, writer, 5)
    insert_at(stack, writer, ENDS[ends][len(below) :])
    snapshot = stack.snapshot()
    assert (snapshot.tree_size, snapshot.deviations) == (5 + len(ENDS[ends]), [])
    require_sound(stack, snapshot.tree_size)


@all_ends
def test_they_are_admitted_late_and_found_sound(
    stack: Stack, writer: LedgerWriter, ends: str
) -> None:
    fill(stack, writer, 5)
    stack.snapshot()
    insert_at(stack, writer, ENDS[ends])
    snapshot = stack.snapshot()
    assert snapshot.late == [one for one in ENDS[ends] if one < 0]
    assert snapshot.tree_size == 5 + len(ENDS[ends])
    insert_at(stack, writer, [-7])
    assert stack.snapshot().late == [-7]
    require_sound(stack, snapshot.tree_size + 1)


@all_ends
def test_what_is_done_to_them_is_named_and_undone(
    stack: Stack, writer: LedgerWriter, ends: str
) -> None:
    fill(stack, writer, 5)
    insert_at(stack, writer, ENDS[ends])
    stack.snapshot()
    gone = ENDS[ends][-1]
    before = stack.execute("SELECT * FROM owa_ledger ORDER BY id")
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = %s", ENDS[ends][0])
    with pytest.raises(ApgmsError) as caught:
        stack.snapshot(verify="full")
    assert caught.value.details["changed_ids"] == [[str(ENDS[ends][0])] * 2]
    stack.execute("DELETE FROM owa_ledger WHERE id = ANY(%s)", [ENDS[ends][0], gone])
    with stack.connection() as connection, connection.transaction():
        log = log_in_force(stack.store, stack.policy)
        put_back(connection, log, find_damage(connection, log))
    assert stack.execute("SELECT * FROM owa_ledger ORDER BY id") == before
    require_sound(stack, len(before))
    fill(stack, writer, 1)  # the sequence was not led to its end


def test_ids_that_end_at_the_least_one_are_ranges(stack: Stack, writer: LedgerWriter) -> None:
    insert_at(stack, writer, ENDS["both"])
    with stack.connection() as connection:
        found = extents_between(connection, None, MOST)
        assert [each for one in found for each in one.ranges()] == [
            (LEAST, LEAST + 1),
            (LEAST + 5, LEAST + 5),
            (MOST - 4, MOST - 3),
            (MOST, MOST),
        ]
