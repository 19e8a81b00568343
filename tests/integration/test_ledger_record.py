"""What the database and the store say of the log, tampered with: nothing wrong is made of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.leaf import line
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import rehearsal
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    check,
    full_verification,
    intact,
    released_chains,
    restore,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    snapshot as snapshots,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.intact import (
    compare_heads,
    require_intact,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.log import (
    PLAN_SCHEMA,
    LedgerLog,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.origin import (
    log_in_force,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.records import open_log
from tests.ledgers import (
    LedgerWriter,
    Stack,
    fill,
    insert_as,
    make_stack,
    refusal,
    verify_all_chains,
)

RECORD = "apgms_release.ledger_extent"
CHECKPOINT = "apgms_release.ledger_checkpoint"


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    """A log of two snapshots, 10 and 400 rows, of which the ids 100 to 149 are missing."""
    made = make_stack(database_url, tmp_path)
    writer = LedgerWriter(3)
    fill(made, writer, 10)
    made.snapshot()
    fill(made, writer, 89)
    made.execute("SELECT setval('owa_ledger_id_seq', 149)")
    fill(made, writer, 301)
    assert made.snapshot().tree_size == 400
    for table in (RECORD, CHECKPOINT):
        made.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    return made


def reason(act: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(ApgmsError) as caught:
        act(**options)
    return caught.value.reason


@pytest.mark.parametrize(
    "tampering",
    [
        f"DELETE FROM {RECORD} WHERE first_position = 0",
        f"UPDATE {RECORD} SET last_id = last_id + 5 WHERE last_id = 450",
        f"UPDATE {RECORD} SET first_position = first_position + 1 WHERE last_id = 450",
        f"UPDATE {RECORD} SET ids[3] = NULL WHERE ids IS NOT NULL",
        f"UPDATE {RECORD} SET ids = ids || last_id WHERE ids IS NOT NULL",
        f"DELETE FROM {RECORD}",
        f"UPDATE {CHECKPOINT} SET columns[2] = NULL",
        f"UPDATE {CHECKPOINT} SET tree_size = 399 WHERE tree_size = 400",
        f"DELETE FROM {CHECKPOINT}",
    ],
)
def test_a_record_that_does_not_hold_together_stops_what_reads_it(
    stack: Stack, tampering: str
) -> None:
    stack.execute(tampering)
    if "tree_size" not in tampering and "DELETE FROM apgms_release.ledger_c" not in tampering:
        for verify in ("incremental", "full"):
            assert reason(stack.snapshot, verify=verify) == "log.rows_differ"
    assert reason(verify_all_chains, stack=stack) == "log.rows_differ"


def test_rows_are_not_blamed_for_a_record_that_gives_their_ids_to_other_positions(
    stack: Stack,
) -> None:
    stack.execute(
        f"UPDATE {RECORD} SET ids = ids[1:array_length(ids, 1) - 3] || ids[array_length(ids, 1) - 1]"
        " || ids[array_length(ids, 1) - 2] || last_id"
        f" WHERE first_position = (SELECT max(first_position) FROM {RECORD}) AND ids IS NOT NULL"
    )
    stack.execute(
        f"UPDATE {RECORD} SET first_id = first_id - 1, last_id = last_id - 1"
        f" WHERE first_position = (SELECT max(first_position) FROM {RECORD}) AND ids IS NULL"
    )
    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        require_intact(connection, stack.store, stack.policy)
    error = caught.value
    assert (error.reason, "record" in str(error), error.details) == ("log.rows_differ", True, {})


def test_a_changed_root_of_an_older_head_in_the_record_is_found(stack: Stack) -> None:
    stack.execute(f"UPDATE {CHECKPOINT} SET root = '\\x00' WHERE tree_size = 10")
    error = refusal(stack, verify="full")
    assert (error.reason, "record" in str(error), error.details) == ("log.rows_differ", True, {})


def test_a_snapshot_that_is_about_to_be_recorded_is_waited_for(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = threading.Event()
    record = snapshots.record

    def record_later(*arguments: Any) -> None:
        stored.set()
        time.sleep(0.5)
        record(*arguments)

    monkeypatch.setattr(snapshots, "record", record_later)
    fill(stack, LedgerWriter(3, seed=9), 20)
    with ThreadPoolExecutor(1) as pool, stack.connection() as connection:
        taken = pool.submit(stack.snapshot)
        assert stored.wait(30)
        head = require_intact(connection, stack.store, stack.policy)
        assert head == taken.result().head


def test_a_row_that_the_record_has_lost_is_not_admitted_again(stack: Stack) -> None:
    stack.execute(f"UPDATE {RECORD} SET first_id = -4, last_id = 5 WHERE first_position = 0")
    assert reason(stack.snapshot) == "log.rows_differ"
    insert_as(stack, 120)
    stack.execute(f"UPDATE {RECORD} SET first_id = 1, last_id = 10 WHERE first_position = 0")
    assert stack.snapshot().late == [120]


def test_changed_rows_are_named_in_order_across_added_columns(stack: Stack) -> None:
    stack.execute("ALTER TABLE owa_ledger ADD COLUMN note text DEFAULT 'a'")
    for row_id in (100, 101):
        insert_as(stack, row_id)
    assert stack.snapshot().late == [100, 101]
    stack.execute("UPDATE owa_ledger SET amount_cents = 1 WHERE id BETWEEN 98 AND 150")
    with pytest.raises(ApgmsError) as caught:
        verify_all_chains(stack)
    assert caught.value.details["changed_ids"] == [["98", "101"], ["150", "150"]]


def test_a_database_behind_the_log_has_all_its_rows_compared(stack: Stack) -> None:
    stack.execute(f"DELETE FROM {RECORD} WHERE first_position >= 10")
    stack.execute(f"DELETE FROM {CHECKPOINT} WHERE tree_size = 400")
    stack.execute("DELETE FROM owa_ledger WHERE id = 300")
    stack.execute("UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 200")
    with pytest.raises(ApgmsError) as caught:
        stack.snapshot(verify="full")
    found = caught.value
    assert (found.reason, found.details["changed_ids"], found.details["missing_ids"]) == (
        "log.database_behind",
        [["200", "200"]],
        [["300", "300"]],
    )


def test_rows_of_a_table_that_inherits_from_the_ledger_are_not_hidden_by_its_index(
    stack: Stack,
) -> None:
    stack.execute("CREATE TABLE owa_child () INHERITS (owa_ledger)")
    assert stack.snapshot(verify="full").new_rows == 0
    stack.execute("INSERT INTO owa_child SELECT * FROM ONLY owa_ledger WHERE id = 5")
    assert reason(stack.snapshot) == "log.duplicate_id"
    assert reason(verify_all_chains, stack=stack) == "log.duplicate_id"


def test_a_rehearsed_full_verification_is_not_misled_by_rows_that_come_meanwhile(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_ids = full_verification.late_ids

    def come(*arguments: Any) -> list[int]:
        found = late_ids(*arguments)
        insert_as(stack, 120)
        return found

    monkeypatch.setattr(full_verification, "late_ids", come)
    with stack.connection() as connection, rehearsal(connection):
        store = OverlayStore(stack.store)
        assert stack.snapshot_over(connection, store=store, verify="full").new_rows == 0


def edit(stack: Stack, size: int, change: Callable[[dict[str, Any]], Any]) -> None:
    [path] = (stack.folder / "store").rglob(f"snapshot/*{size}")
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(canonical(document))


def raise_rows(document: dict[str, Any]) -> None:
    document["namespaces"]["gst"]["rows"] += 7


def add_namespace(document: dict[str, Any]) -> None:
    entry = {"rows": 1, "balance_cents": "5", "rows_sha256": "00" * 32, "periods": {}}
    document["namespaces"]["fake"] = {
        **entry,
        "added": {"rows": 0, "amount_cents": "0", "chains": 0},
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(root="00" * 32),
        lambda said: said.update(more=1),
        lambda said: said["segments"].append([said["tree_size"], said["tree_size"]]),
        lambda said: said["namespaces"].update(gst=[]),
        lambda said: said["namespaces"]["gst"].update(balance_cents="x"),
        raise_rows,
        add_namespace,
    ],
)
@pytest.mark.parametrize("sizes", [[400], [10, 400]])
@pytest.mark.parametrize("confirmed_before", [True, False])
def test_the_auditor_confirms_no_document_that_is_not_that_of_its_rows(
    stack: Stack, change: Callable[[dict[str, Any]], Any], sizes: list[int], confirmed_before: bool
) -> None:
    if confirmed_before:
        stack.cosign()
        fill(stack, LedgerWriter(3, seed=9), 20)
        stack.snapshot()
        sizes = [size if size == 10 else 420 for size in sizes]
    for size in sizes:
        edit(stack, size, change)
    assert reason(stack.cosign) == "log.object_damaged"


def test_the_auditor_does_not_take_true_for_one(database_url: str, tmp_path: Path) -> None:
    stack = make_stack(database_url, tmp_path)
    fill(stack, LedgerWriter(), 1)
    [name] = stack.snapshot().namespaces
    edit(stack, 1, lambda said: said["namespaces"][name].update(rows=True))
    assert reason(stack.cosign) == "log.object_damaged"


@pytest.mark.parametrize(
    ("fresh", "columns"),
    [
        ([], lambda names: names),
        ([["451", "5"]], lambda names: names[:-1]),
        ([["451", "5"]], lambda names: [names[-1], *names[:-1]]),
        ([["451", "5"]], lambda names: [*names[:-1], 7]),
        ([["451", "5"]], lambda names: ["id", "abn"]),
        ([["451", "0_5"]], lambda names: names),
        ([["451", f"1 {2**63} 1"]], lambda names: names),
    ],
)
def test_a_plan_that_nobody_made_is_not_taken_up(
    stack: Stack, fresh: list[list[str]], columns: Callable[[list[str]], list[Any]]
) -> None:
    fill(stack, LedgerWriter(3, seed=9), 5)
    log = log_in_force(stack.store, stack.policy)
    document = {
        "schema": PLAN_SCHEMA,
        "origin": log.origin,
        "tree_size": "400",
        "columns": columns(list(log.snapshot(400).columns)),
        "late": [],
        "fresh": fresh,
    }
    stack.store.put_new(log.plan_key(400), canonical(document))
    for verify in ("incremental", "full"):
        assert reason(stack.snapshot, verify=verify) == "log.object_damaged"


@pytest.mark.parametrize("fresh", [[["11", "89"]], [["11", "89"], ["150", "302"]], [["11", "391"]]])
def test_a_plan_of_other_ids_than_were_admitted_is_found(
    stack: Stack, fresh: list[list[str]]
) -> None:
    [path] = (stack.folder / "store").rglob("plan/*10")
    path.write_bytes(canonical({**json.loads(path.read_bytes()), "fresh": fresh}))
    error = refusal(stack, verify="full")
    assert (error.reason, "plan/0000000000000010" in str(error)) == ("log.object_damaged", True)


def test_a_record_whose_ids_are_not_those_of_the_archived_rows_is_not_blamed_on_a_plan(
    stack: Stack,
) -> None:
    stack.execute(
        f"UPDATE {RECORD} SET ids = ids[1:3] || ids[5] || ids[4] || ids[6:] WHERE ids IS NOT NULL"
    )
    error = refusal(stack, verify="full")
    assert (error.reason, "record" in str(error), error.details) == ("log.rows_differ", True, {})


@pytest.mark.parametrize("rows", [b"garbage\n", b"\xff\n", b"1\t2\n", b"1\t2", b""])
def test_what_stands_where_a_snapshot_was_cut_off_must_be_rows_that_were_planned(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, rows: bytes
) -> None:
    fill(stack, LedgerWriter(3, seed=9), 5)
    with monkeypatch.context() as patch:
        patch.setattr(LedgerLog, "put_snapshot", None)
        with pytest.raises(TypeError):
            stack.snapshot()
    log = log_in_force(stack.store, stack.policy)
    planted = log.segment_key(405, 410)
    stack.store.put_new(planted, line(log.snapshot(400).columns) + rows)
    error = refusal(stack)
    assert (error.reason, planted in str(error)) == ("log.object_damaged", True)
    (stack.folder / "store" / planted).unlink()
    assert stack.snapshot().tree_size == 405


def test_a_segment_that_has_no_place_in_the_log_is_named_by_the_check(stack: Stack) -> None:
    first, second = sorted((stack.folder / "store").rglob("segment/*"))
    planted = first.with_name("0000000000000001-0000000000000011")
    planted.write_bytes(first.read_bytes())
    with stack.connection() as connection:
        problems = check.check_ledger(connection, stack.store, stack.policy).problems
    assert f"segment/{planted.name} does not follow one that ends at 10" in problems[0]
    planted.unlink()
    first.rename(first.with_name("0000000000000000-0000000000000009"))
    second.unlink()
    with stack.connection() as connection:
        problems = check.check_ledger(connection, stack.store, stack.policy).problems
    assert "segment/0000000000000000-0000000000000009 has 10 rows" in problems[0]
    assert problems[1] == "the last archived segment ends at 9, not at 400"


def test_neither_a_damaged_tile_nor_a_damaged_record_accuses_released_rows(stack: Stack) -> None:
    [tile] = (stack.folder / "store").rglob("tile/0/000")
    good = tile.read_bytes()
    tile.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert reason(verify_all_chains, stack=stack) == "log.tile_damaged"
    tile.write_bytes(good)
    stack.execute(f"UPDATE {CHECKPOINT} SET columns = columns[1:10] WHERE tree_size = 10")
    with pytest.raises(ApgmsError, match="record of the ledger log") as caught:
        verify_all_chains(stack)
    assert caught.value.details == {}


def test_a_damaged_tile_that_is_full_accuses_no_row_before_an_act(
    database_url: str, tmp_path: Path
) -> None:
    stack = make_stack(database_url, tmp_path)
    fill(stack, LedgerWriter(), 512)
    stack.snapshot()
    [tile] = (stack.folder / "store").rglob("tile/0/001")
    tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    assert reason(stack.snapshot) == "log.tile_damaged"


# --- beside a snapshot ----------------------------------------------------------------------


@pytest.fixture
def beside(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Let a snapshot be taken, once, right before or after a function is called."""

    def arrange(owner: Any, name: str, *, after: bool = False) -> None:
        called = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            monkeypatch.setattr(owner, name, called)
            found = called(*arguments) if after else None
            fill(stack, LedgerWriter(3, seed=9), 10)
            assert stack.snapshot().tree_size == 410
            return found if after else called(*arguments)

        monkeypatch.setattr(owner, name, wrapped)

    return arrange


def test_a_snapshot_that_is_recorded_meanwhile_is_no_damage_of_the_record(
    stack: Stack, beside: Callable[..., None]
) -> None:
    beside(intact, "recorded_head", after=True)
    with stack.connection() as connection:
        recorded, head = compare_heads(connection, open_log(connection, stack.store, stack.policy))
    assert (recorded.tree_size, head.tree_size) == (400, 410)


def test_released_chains_are_held_against_the_head_of_one_view(
    stack: Stack, beside: Callable[..., None]
) -> None:
    beside(released_chains, "require_unique_ids")
    verify_all_chains(stack)


def test_a_check_does_not_miss_rows_that_were_admitted_after_its_view(
    stack: Stack, beside: Callable[..., None]
) -> None:
    beside(check, "_newest")
    with stack.connection() as connection:
        assert check.check_ledger(connection, stack.store, stack.policy).problems == []


def test_a_restore_does_not_miss_rows_that_were_admitted_after_its_view(
    stack: Stack, beside: Callable[..., None]
) -> None:
    beside(restore, "compare")
    with stack.connection() as connection:
        assert not restore.find_damage(connection, open_log(connection, stack.store, stack.policy))


def test_a_check_is_not_misled_by_a_policy_that_hides_rows(stack: Stack) -> None:
    stack.execute("ALTER TABLE owa_ledger ENABLE ROW LEVEL SECURITY")
    role = f"auditor_{stack.folder.name[-8:]}".replace("-", "_")
    stack.execute(f"CREATE ROLE {role}")
    stack.execute(f"GRANT USAGE ON SCHEMA apgms_release TO {role}")
    stack.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, apgms_release TO {role}")
    with stack.connection() as connection:
        connection.execute(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            check.check_ledger(connection, stack.store, stack.policy)
