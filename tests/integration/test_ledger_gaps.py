"""Ledgers with gaps between ids: rolled back transactions, a sequence that tables share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger import extent
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    rows as ledger_rows,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    snapshot as snapshots,
)
from tests import ledgers
from tests.conftest import ROOT
from tests.ledgers import (
    COLUMNS,
    LedgerWriter,
    Stack,
    insert_as,
    make_stack,
    refusal,
    verify_all_chains,
)

PLACES: dict[str, Callable[[int], int]] = {
    "every second": lambda n: 2 * n,
    "a few missing": lambda n: n + n // 19,
    "pairs": lambda n: n + n // 2,
    "sparse": lambda n: 10**13 * n,
}


@pytest.fixture(params=PLACES)
def ids(request: pytest.FixtureRequest) -> list[int]:
    """The ids of the ledger's first rows."""
    return [PLACES[request.param](n) for n in range(1, 601)]


@pytest.fixture
def stack(
    database_url: str, tmp_path: Path, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> Stack:
    """A stack with a ledger of those rows; small extents and portions, so that there are many."""
    monkeypatch.setattr(extent, "EXTENT_IDS", 50)
    monkeypatch.setattr(ledger_rows, "IDS_AT_ONCE", 130)
    made = make_stack(database_url, tmp_path)
    fill(made, LedgerWriter(), ids)
    return made


def fill(stack: Stack, writer: LedgerWriter, ids: Iterable[int]) -> None:
    command = f"COPY owa_ledger (id, {', '.join(COLUMNS)}) FROM STDIN"
    with psycopg.connect(stack.url) as connection, connection.cursor().copy(command) as copy:
        for row_id in ids:
            copy.write_row((row_id, *writer.row()))


def gap(ids: list[int], after: int) -> int:
    """The first id of a gap, above the row of number ``after``."""
    known = set(ids)
    return next(each + 1 for each in ids[after:] if each + 1 not in known)


def above(stack: Stack, count: int) -> list[int]:
    [(highest,)] = stack.execute("SELECT max(id) FROM owa_ledger")
    return [highest + 3 * number for number in range(1, count + 1)]


def planned_ids(plan: Path) -> list[int]:
    """The ids of a plan, as an auditor reads them."""
    document, ids = json.loads(plan.read_bytes()), []
    for first, runs in document["late"] + document["fresh"]:
        at, present = int(first), True
        for count in map(int, runs.split()):
            ids += range(at, at + count) if present else []
            at, present = at + count, not present
    return ids


def test_rows_are_admitted_verified_and_planned_as_they_are(stack: Stack, ids: list[int]) -> None:
    assert stack.snapshot().tree_size == 600
    [plan] = (stack.folder / "store").rglob("plan/*")
    assert planned_ids(plan) == ids
    [(extents,)] = stack.execute("SELECT count(*) FROM apgms_release.ledger_extent")
    assert extents == 14  # of 50 rows at most, not one a gap
    fill(stack, LedgerWriter(seed=2), above(stack, 70))
    second = stack.snapshot()
    assert (second.tree_size, second.late) == (670, [])
    assert stack.snapshot(verify="full").tree_size == 670
    verify_all_chains(stack)
    assert stack.cosign().rebuilt_rows == 670


def test_an_auditor_reads_a_plan_with_the_command_of_the_documentation(
    stack: Stack, ids: list[int]
) -> None:
    stack.snapshot()
    section = (ROOT / "docs/ledger-log.md").read_text().partition("A plan gives its ids")[2]
    command = section.partition("```sh\n")[2].partition("```")[0]
    shown = subprocess.run(
        ["sh", "-ec", command],
        cwd=stack.folder / "store",
        capture_output=True,
        text=True,
        check=True,
    )
    ranges = (map(int, line.split()) for line in shown.stdout.splitlines())
    assert [each for first, last in ranges for each in range(first, last + 1)] == ids


def test_late_rows_in_gaps_are_named_admitted_and_verified(stack: Stack, ids: list[int]) -> None:
    stack.snapshot()
    late = [gap(ids, 20), gap(ids, 300)]
    for row_id in late:
        insert_as(stack, row_id)
    fill(stack, LedgerWriter(seed=2), above(stack, 60))
    second = stack.snapshot()
    assert (second.late, second.tree_size) == (late, 662)
    assert second.result()["late"] == {"count": 2, "ids": [[str(each)] * 2 for each in late]}
    assert stack.snapshot(verify="full").late == []
    verify_all_chains(stack)
    insert_as(stack, third := gap(ids, 400))
    full = stack.snapshot(verify="full")
    assert (full.late, full.tree_size) == ([third], 663)
    verify_all_chains(stack)
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = %s", late[1])
    error = refusal(stack, verify="full")
    assert error.details["changed_ids"] == [[str(late[1])] * 2]


def test_a_chain_with_late_and_fresh_rows_is_counted_once(stack: Stack, ids: list[int]) -> None:
    stack.snapshot()
    chain = LedgerWriter(seed=3)
    late, *fresh = (chain.row(chain=0) for _ in range(4))
    insert_as(stack, gap(ids, 20), late)
    for row_id, row in zip(above(stack, 3), fresh, strict=True):
        insert_as(stack, row_id, row)
    added = stack.snapshot().logged.namespaces["gst"]["added"]
    amount = sum(row[COLUMNS.index("amount_cents")] for row in (late, *fresh))
    assert added == {"rows": 4, "amount_cents": str(amount), "chains": 1}


def test_a_late_row_is_named_where_an_admitted_one_of_its_stretch_was_deleted(
    stack: Stack,
    ids: list[int],
) -> None:
    stack.snapshot()
    insert_as(stack, late := gap(ids, 100))
    gone = ids[105]
    stack.execute("DELETE FROM owa_ledger WHERE id = %s", gone)
    assert stack.snapshot().late == [late]
    error = refusal(stack, verify="full")
    assert error.details["missing_ids"] == [[str(gone)] * 2]
    with pytest.raises(ApgmsError) as caught:
        verify_all_chains(stack)
    assert caught.value.reason == "log.rows_missing"


class _CutOff(Exception):
    pass


class _Cutting(FolderStore):
    """A store that dies at the head of the snapshot."""

    def put_new(self, key: str, data: bytes | Path) -> bool:
        if "/checkpoint/" in key:
            raise _CutOff
        return super().put_new(key, data)


def test_many_late_rows_that_were_cut_off_are_taken_up(database_url: str, tmp_path: Path) -> None:
    stack = make_stack(database_url, tmp_path)
    rows = 20_000
    ledgers.fill(stack, LedgerWriter(), rows)
    stack.execute("CREATE TABLE every_second AS SELECT * FROM owa_ledger WHERE mod(id, 2) = 0")
    stack.execute("DELETE FROM owa_ledger WHERE mod(id, 2) = 0")
    stack.snapshot()
    stack.execute("INSERT INTO owa_ledger SELECT * FROM every_second")
    stack.execute("ANALYZE owa_ledger")
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store"))
    assert stack.snapshot().late == [*range(2, rows, 2)]
    assert stack.snapshot(verify="full").tree_size == rows


@pytest.mark.parametrize("gone", [2, 999, 1001, 2000])
def test_a_snapshot_that_was_cut_off_is_taken_up_where_extents_adjoin(
    database_url: str, tmp_path: Path, gone: int
) -> None:
    stack = make_stack(database_url, tmp_path)
    ledgers.fill(stack, LedgerWriter(), 3000)
    stack.execute("DELETE FROM owa_ledger WHERE id = %s", gone)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store"))
    assert stack.snapshot().tree_size == 2999


@pytest.mark.parametrize("segments", ["all stored", "none stored"])
def test_a_plan_that_was_cut_off_admits_the_same_rows_though_others_have_come_between(
    stack: Stack, ids: list[int], segments: str
) -> None:
    stack.snapshot()
    late = gap(ids, 50)
    insert_as(stack, late)
    fresh = above(stack, 200)
    fill(stack, LedgerWriter(seed=2), fresh)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store"))
    if segments == "none stored":
        for path in (stack.folder / "store").rglob("segment/0000000000000600-*"):
            path.unlink()
    between = [fresh[10] + 1, fresh[150] + 2, gap(ids, 200)]
    for row_id in between:
        insert_as(stack, row_id)
    taken = stack.snapshot()
    assert (taken.tree_size, taken.late) == (801, [late])
    [plan] = (stack.folder / "store").rglob("plan/*600")
    assert planned_ids(plan) == [late, *fresh]
    assert sum(entry["rows"] for entry in taken.logged.namespaces.values()) == 801
    then = stack.snapshot()
    assert (then.tree_size, then.late) == (804, sorted(between))
    assert stack.snapshot(verify="full").tree_size == 804
    assert stack.cosign().rebuilt_rows == 804


def test_a_planned_row_that_is_gone_is_named_though_another_has_come(
    stack: Stack, ids: list[int]
) -> None:
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store"))
    gone = ids[70]
    stack.execute("DELETE FROM owa_ledger WHERE id = %s", gone)
    insert_as(stack, gap(ids, 71))
    for path in (stack.folder / "store").rglob("segment/*"):
        path.unlink()
    error = refusal(stack)
    assert error.reason == "log.rows_gone"
    assert f"missing: {gone}" in str(error)


def test_a_snapshot_that_was_stored_but_not_recorded_is_recorded(
    stack: Stack, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.snapshot()
    late = gap(ids, 50)
    insert_as(stack, late)
    fill(stack, LedgerWriter(seed=2), above(stack, 90))

    def cut_off(*_arguments: object) -> None:
        raise _CutOff

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "record", cut_off)
        with pytest.raises(_CutOff):
            stack.snapshot()
    again = stack.snapshot()
    assert (again.tree_size, again.new_rows) == (691, 0)
    recorded = stack.execute(
        "SELECT first_id, last_id FROM apgms_release.ledger_extent WHERE first_position = 600"
    )
    assert recorded == [(late, late)]
    insert_as(stack, gap(ids, 500))
    assert stack.snapshot(verify="full").tree_size == 692
    verify_all_chains(stack)


def test_a_row_gone_from_the_last_tile_stops_every_act(stack: Stack, ids: list[int]) -> None:
    stack.snapshot()
    gone = ids[590]
    stack.execute("DELETE FROM owa_ledger WHERE id = %s", gone)
    error = refusal(stack)
    assert error.reason == "log.rows_differ"
    assert error.details["missing_ids"] == [[str(gone)] * 2]
