from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    parse_canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import Chain
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.leaf import (
    leaf_hash,
    line,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.tree import root_of
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import rehearsal
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    admission,
    released_chains,
    storing,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    snapshot as snapshots,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    check_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.cosign import cosign
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.intact import (
    require_intact,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.new_origin import (
    BROKEN_HISTORY,
    open_origin,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.origin import (
    log_in_force,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.released_chains import (
    verify_chains_against_leaves,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.snapshot import (
    take_snapshot,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.table import (
    ledger_columns,
)
from services.keys import make_keys
from tests.folders import without_rights
from tests.ledgers import (
    INSERT,
    LedgerWriter,
    Stack,
    fill,
    forget,
    insert_as,
    make_stack,
    refusal,
    verify_all_chains,
)


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


@pytest.fixture
def writer() -> LedgerWriter:
    return LedgerWriter()


def ask_for_an_origin(stack: Stack) -> str:
    """Ask without a statement; return the reason of the refusal."""
    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        open_origin(
            connection, stack.store, stack.policy, str(stack.folder / "none"), SystemClock()
        )
    return caught.value.reason


def root_by_hand(stack: Stack, order: str = "l.id") -> bytes:
    """The root over all rows, from values as the server prints them, without the log's code."""
    with psycopg.connect(stack.url, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        names = [
            row[0]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'owa_ledger'::regclass"
                " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            )
        ]
        texts = ", ".join(f"{name}::text" for name in names)
        rows = connection.execute(f"SELECT {texts} FROM owa_ledger l ORDER BY {order}").fetchall()  # type: ignore[arg-type]
    return root_of([leaf_hash(line(names), line(row)) for row in rows])


# --- admission ------------------------------------------------------------------------------


def test_first_snapshot_covers_whole_rows_in_order_of_id(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 700)
    snapshot = stack.snapshot()
    assert (snapshot.tree_size, snapshot.new_rows, snapshot.deviations) == (700, 700, [])
    assert snapshot.root == root_by_hand(stack)


def test_second_snapshot_admits_what_is_new_and_proves_the_first_a_prefix(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 300)
    first = stack.snapshot()
    fill(stack, writer, 333)
    second = stack.snapshot()
    assert (second.previous_size, second.tree_size, second.new_rows) == (300, 633, 333)
    assert second.root == root_by_hand(stack)
    assert second.consistency
    assert second.checked_rows == 333
    assert first.root != second.root


def test_nothing_new_is_no_change(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 10)
    first = stack.snapshot()
    again = stack.snapshot()
    assert first.changed and not again.changed
    assert (again.checkpoint, again.namespaces) == (first.checkpoint, first.namespaces)
    before, after = again.difference()
    assert before == after


def test_an_empty_ledger_has_an_empty_tree(stack: Stack, writer: LedgerWriter) -> None:
    empty = stack.snapshot()
    assert (empty.tree_size, empty.changed) == (0, True)
    assert not stack.snapshot().changed
    fill(stack, writer, 3)
    assert stack.snapshot().root == root_by_hand(stack)


def test_a_column_added_later_is_covered_from_then_on(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 20)
    stack.snapshot()
    stack.execute("ALTER TABLE owa_ledger ADD COLUMN release_uuid uuid")
    fill(stack, writer, 20)
    assert "release_uuid" in stack.snapshot().logged.columns
    assert stack.snapshot(verify="full").tree_size == 40
    stack.execute("UPDATE owa_ledger SET release_uuid = gen_random_uuid() WHERE id = 30")
    assert refusal(stack, verify="full").details["changed_ids"] == [["30", "30"]]


def test_namespace_files_are_what_the_hashes_name(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 200)
    stack.snapshot()
    fill(stack, writer, 100)
    snapshot = stack.snapshot()
    hashes = json.loads(snapshot.ledger_hashes)
    assert hashes == {name: sha256_hex(data) for name, data in snapshot.namespaces.items()}
    for name, data in snapshot.namespaces.items():
        content = json.loads(data)
        [(rows, balance)] = stack.execute(
            "SELECT count(*), sum(amount_cents) FROM owa_ledger WHERE lower(tax_type) = %s", name
        )
        assert (content["rows"], content["balance_cents"]) == (rows, str(balance))
        assert content["tree_range"] == ["200", "300"]
        periods = content["periods"].values()
        assert sum(period["rows"] for period in periods) == rows


def test_two_spellings_of_a_namespace_are_hashed_in_order_of_position(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 9)
    stack.execute(
        "UPDATE owa_ledger SET tax_type = CASE mod(id, 2) WHEN 0 THEN 'gst' ELSE 'GST' END"
    )
    snapshot = stack.snapshot()
    leaves = (stack.folder / "store/log" / snapshot.origin / "tile/0/000.p/9").read_bytes()
    [entry] = snapshot.logged.namespaces.values()
    assert entry["rows_sha256"] == hashlib.sha256(leaves).hexdigest()


def test_the_diff_shows_rows_balances_and_chains(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 50)
    stack.snapshot()
    row = writer.row(chain=1)
    stack.execute(INSERT, *row)
    before, after = stack.snapshot().difference()
    assert (before["tree_size"], after["tree_size"]) == (50, 51)
    assert before["namespaces"]["gst"]["rows"] == after["namespaces"]["gst"]["rows"]
    old, new = before["namespaces"]["paygw"], after["namespaces"]["paygw"]
    assert new["rows"] - old["rows"] == 1
    assert int(new["balance_cents"]) - int(old["balance_cents"]) == row[4]
    assert new["chains_with_new_rows"] == 1


# --- gaps, late rows and writers ------------------------------------------------------------


def test_gaps_in_the_ids_are_no_rows(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 100)
    stack.execute("SELECT setval('owa_ledger_id_seq', 5000)")
    fill(stack, writer, 100)
    assert stack.snapshot().tree_size == 200
    assert stack.snapshot(verify="full").root == root_by_hand(stack)


def test_a_row_below_the_frontier_is_named_and_admitted_next_time(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 10)
    with psycopg.connect(stack.url) as slow:
        [late] = writer.insert(slow, 1)
        fill(stack, LedgerWriter(seed=2), 10)
        first = stack.snapshot(wait_seconds=0.2)
        assert first.tree_size == 20
        assert len(first.unfinished) == 1
        slow.commit()
    second = stack.snapshot()
    assert second.late == [late]
    assert second.tree_size == 21
    assert second.root == root_by_hand(stack, f"l.id = {late}, l.id")
    assert stack.snapshot(verify="full").late == []


def test_a_short_transaction_is_waited_for(stack: Stack, writer: LedgerWriter) -> None:
    with psycopg.connect(stack.url) as slow:
        writer.insert(slow, 1)
        fill(stack, LedgerWriter(seed=2), 1)
        timer = threading.Timer(0.3, slow.commit)
        timer.start()
        snapshot = stack.snapshot(wait_seconds=10)
        timer.join()
    assert (snapshot.tree_size, snapshot.unfinished, snapshot.late) == (2, [], [])


def test_with_writers_running_no_row_is_missed_and_none_counted_twice(
    stack: Stack, writer: LedgerWriter
) -> None:
    stop = threading.Event()

    def write(seed: int) -> None:
        rows = LedgerWriter(chains=4, seed=seed)
        with psycopg.connect(stack.url) as connection:
            while not stop.is_set():
                rows.insert(connection, 7)
                (connection.rollback if seed == 3 else connection.commit)()

    threads = [threading.Thread(target=write, args=[seed]) for seed in (2, 3, 4)]
    for thread in threads:
        thread.start()
    sizes = [stack.snapshot(wait_seconds=5).tree_size for _ in range(5)]
    stop.set()
    for thread in threads:
        thread.join()
    last = stack.snapshot()
    assert sizes == sorted(sizes)
    [(rows,)] = stack.execute("SELECT count(*) FROM owa_ledger")
    assert last.tree_size == rows > 0
    stack.snapshot(verify="full")


def test_a_writer_is_not_blocked(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 5)
    with psycopg.connect(stack.url) as slow, stack.connection() as connection:
        writer.insert(slow, 1)

        class Clock(SystemClock):
            """Has others write while the snapshot waits."""

            def sleep(self, seconds: float) -> None:
                with psycopg.connect(stack.url, autocommit=True) as other:
                    other.execute("SET lock_timeout = '1s'")
                    written.extend(LedgerWriter(seed=len(written)).insert(other, 5))
                slow.commit()

        written: list[int] = []
        signer = open_signer(str(stack.keys.log_key), "ed25519")
        take_snapshot(connection, stack.store, signer, stack.policy, Clock(), wait_seconds=2)
    assert len(written) == 5


# --- tampering ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tampering", "changed", "missing"),
    [
        ("UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 40", [40], []),
        ("UPDATE owa_ledger SET created_at = created_at + '1 us' WHERE id = 299", [299], []),
        ("DELETE FROM owa_ledger WHERE id IN (7, 8, 200)", [], [7, 8, 200]),
        (
            "UPDATE owa_ledger SET id = CASE id WHEN 20 THEN -1 ELSE 20 END WHERE id IN (20, 21)",
            [20],
            [21],
        ),
    ],
)
def test_full_verification_names_every_tampered_row(
    stack: Stack, writer: LedgerWriter, tampering: str, changed: list[int], missing: list[int]
) -> None:
    fill(stack, writer, 280)
    stack.snapshot()
    fill(stack, writer, 320)
    stack.snapshot()
    stack.execute("ALTER TABLE owa_ledger DROP CONSTRAINT owa_ledger_pkey")
    stack.execute(tampering)
    error = refusal(stack, verify="full")
    assert error.reason == "log.rows_differ"
    assert ids(error.details["changed_ids"]) == changed
    assert ids(error.details["missing_ids"]) == missing


def ids(ranges: list[list[str]]) -> list[int]:
    return [row for first, last in ranges for row in range(int(first), int(last) + 1)]


def test_a_row_inserted_below_the_frontier_is_named(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 30)
    stack.snapshot()
    insert_as(stack, -5, writer.row())
    snapshot = stack.snapshot(verify="full")
    assert snapshot.late == [-5]


def test_a_late_row_alone_does_not_narrow_a_full_verification(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 30)
    stack.execute("UPDATE owa_ledger SET hash_after = NULL WHERE id = 20")
    stack.snapshot()
    insert_as(stack, -5, writer.row())
    snapshot = stack.snapshot(verify="full")
    assert snapshot.late == [-5]
    assert ("null_hash", ((20, 20),)) in [(one.kind, one.ids) for one in snapshot.deviations]


def test_a_planned_row_that_is_gone_stops_the_snapshot_and_is_named(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 30)
    store = _Cutting(stack.folder / "store", 1)
    with pytest.raises(_CutOff):
        stack.snapshot(store=store)
    stack.execute("DELETE FROM owa_ledger WHERE id IN (7, 8)")
    error = refusal(stack)
    assert error.reason == "log.rows_gone"
    assert "missing: 7-8" in str(error)
    assert error.reason in BROKEN_HISTORY
    assert ask_for_an_origin(stack) == "approval.waiting"


def test_rows_that_changed_before_they_were_admitted_are_named(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 30)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store", 2))
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = 9")
    error = refusal(stack)
    assert error.reason == "log.rows_gone"
    assert "changed: 9" in str(error)


def test_a_plan_whose_column_is_gone_may_be_left_for_a_new_origin(
    stack: Stack, writer: LedgerWriter
) -> None:
    stack.execute("ALTER TABLE owa_ledger ADD COLUMN note text")
    fill(stack, writer, 30)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store", 1))
    stack.execute("ALTER TABLE owa_ledger DROP COLUMN note")
    assert refusal(stack).reason == "log.column_gone"
    assert ask_for_an_origin(stack) == "approval.waiting"


def test_planned_rows_that_have_lost_a_value_are_not_admitted(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 30)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store", 1))
    stack.execute("ALTER TABLE owa_ledger ALTER amount_cents DROP NOT NULL")
    stack.execute("UPDATE owa_ledger SET amount_cents = NULL WHERE id IN (4, 9)")
    error = refusal(stack)
    assert (error.reason, "rows 4, 9" in str(error)) == ("log.null_value", True)


def test_a_plan_that_would_admit_a_row_twice_is_refused_before_anything_is_stored(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 30)
    stack.snapshot()
    fill(stack, writer, 5)
    with pytest.raises(_CutOff):
        stack.snapshot(store=_Cutting(stack.folder / "store", 1))
    [plan] = (stack.folder / "store").rglob("plan/*30")
    good = plan.read_bytes()
    for bad in (
        b'[["31","2"],["32","4"]]',
        b'[["30","6"]]',
        b'[["31","5"],["31","5"]]',
        b'[["31","0"]]',
        b'[["31","2 1"]]',
        b'[["31","-5"]]',
        b'"x"',
        b"[[1]]",
        b"[[31,5]]",
    ):
        changed = good.replace(b'[["31","5"]]', bad)
        assert changed != good
        plan.write_bytes(changed)
        assert refusal(stack).reason == "log.object_damaged"
    for late in (b"20", b"30"):
        plan.write_bytes(good.replace(b'"late":[]', b'"late":[["%s","1"]]' % late))
        assert f"row {late.decode()} a second time" in str(refusal(stack))
    for bad_bytes in (b"", b"{}", good[:-1], bytes(len(good))):
        plan.write_bytes(bad_bytes)
        assert refusal(stack).reason == "log.object_damaged"
    plan.write_bytes(good)
    assert stack.snapshot().tree_size == 35


@pytest.mark.parametrize("before", [0, 30])
@pytest.mark.parametrize(
    ("late", "fresh"),
    [
        ([], [["31", "1000000000000000"]]),
        ([], [["31", "1 1 1000000000000000"]]),
        ([["-1000000000000000", "999999999999999"]], [["31", "5"]]),
    ],
)
def test_a_plan_that_somebody_put_there_for_more_ids_than_there_are_rows_is_refused_at_once(
    stack: Stack, writer: LedgerWriter, before: int, late: list[Any], fresh: list[Any]
) -> None:
    fill(stack, writer, 30)
    if before:
        stack.snapshot()
    fill(stack, writer, 5)
    with stack.connection() as connection:
        names = ledger_columns(connection)
    plan = {
        "schema": "apgms.release/log-plan/1",
        "origin": "apgms.local/prod",
        "tree_size": str(before),
        "columns": list(names),
        "late": late,
        "fresh": fresh,
    }
    prefix = "log/apgms.local/prod"
    stack.store.put_new(f"{prefix}/plan/{before:016d}", canonical(plan))
    error = refusal(stack)
    assert (error.reason, f"plan/{before:016d}" in str(error)) == ("log.rows_gone", True)
    begun = 10**14
    key = f"{prefix}/segment/{begun:016d}-{begun + 1:016d}"
    stack.store.put_new(key, ("\t".join(names) + "\n31\n").encode())
    assert refusal(stack).reason == "log.object_damaged"


def test_ids_that_rows_share_stop_every_act(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    stack.execute("ALTER TABLE owa_ledger DROP CONSTRAINT owa_ledger_pkey")
    assert stack.snapshot(verify="full").tree_size == 300
    insert_as(stack, 300, writer.row())
    for verify in ("incremental", "full"):
        error = refusal(stack, verify=verify)
        assert error.reason == "log.duplicate_id"
        assert "300" in str(error)


def test_a_full_verification_names_all_rows_also_where_the_last_ones_are_among_them(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 600)
    stack.snapshot()
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id IN (5, 300, 599)")
    stack.execute("DELETE FROM owa_ledger WHERE id IN (7, 590)")
    error = refusal(stack, verify="full")
    assert ids(error.details["changed_ids"]) == [5, 300, 599]
    assert ids(error.details["missing_ids"]) == [7, 590]


def test_a_checkpoint_that_is_gone_from_the_middle_is_missed(
    stack: Stack, writer: LedgerWriter
) -> None:
    for _ in range(3):
        fill(stack, writer, 10)
        stack.snapshot()
    [middle] = (stack.folder / "store").rglob("checkpoint/*20")
    middle.unlink()
    assert refusal(stack, verify="full").reason == "log.object_missing"


def test_files_that_are_not_the_logs_are_left_alone(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 10)
    log = stack.folder / "store" / "log" / stack.snapshot().origin
    for name in ("checkpoint/.nfs0001", "checkpoint/1~", "segment/.DS_Store", "restore/x"):
        (log / name).parent.mkdir(exist_ok=True)
        (log / name).write_bytes(b"junk")
    fill(stack, writer, 10)
    assert stack.snapshot(verify="full").tree_size == 20
    assert stack.cosign().rebuilt_rows == 20
    with stack.connection() as connection:
        found = check_ledger(connection, stack.store, stack.policy)
    assert (found.problems, found.admitted) == ([], 20)


def test_a_column_may_have_the_name_of_anything_in_a_query(
    stack: Stack, writer: LedgerWriter
) -> None:
    for name in sorted(names_in_queries() - {*columns(stack)}):
        stack.execute(f'ALTER TABLE owa_ledger ADD COLUMN "{name}" text')
    fill(stack, writer, 20)
    stack.execute("DELETE FROM owa_ledger WHERE id = 5")
    assert stack.snapshot().tree_size == 19
    insert_as(stack, 5)
    fill(stack, writer, 20)
    stack.execute("UPDATE owa_ledger SET hash_after = NULL WHERE id = 40")
    taken = stack.snapshot(verify="full")
    assert taken.late == [5]
    assert "null_hash" in [one.kind for one in taken.deviations]
    verify_all_chains(stack)
    with stack.connection() as connection:
        assert check_ledger(connection, stack.store, stack.policy).admitted == 40
    stack.execute("UPDATE owa_ledger SET abn = '1' WHERE id = 20")
    assert refusal(stack, verify="full").details["changed_ids"] == [["20", "20"]]


def names_in_queries() -> set[str]:
    """All names that the queries of the use cases of the ledger give to anything."""
    folder = Path(snapshots.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    return set(re.findall(r'\bAS "?([a-z_]+)', code))


def columns(stack: Stack) -> list[str]:
    found = stack.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'owa_ledger'::regclass"
    )
    return [row[0] for row in found]


def test_rows_that_a_policy_hides_are_an_error(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 20)
    stack.execute("ALTER TABLE owa_ledger ENABLE ROW LEVEL SECURITY")
    stack.execute("CREATE POLICY gst_alone ON owa_ledger USING (tax_type = 'GST')")
    role = f"reader_{stack.folder.name[-8:]}".replace("-", "_")
    stack.execute(f"CREATE ROLE {role}")
    stack.execute(f"GRANT ALL ON owa_ledger TO {role}")
    stack.execute(f"GRANT USAGE ON SCHEMA apgms_release TO {role}")
    stack.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA apgms_release TO {role}")
    with stack.connection() as connection:
        connection.execute(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            stack.snapshot_over(connection)


def test_a_database_that_gives_no_second_connection_is_read_over_one(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def none_left(connection: Any) -> Any:
        asked.append(connection)
        raise psycopg.OperationalError("too many connections")

    monkeypatch.setattr(snapshots, "MANY_ROWS", 1)
    monkeypatch.setattr(snapshots, "same_view_beside", none_left)
    fill(stack, writer, 20)
    assert stack.snapshot().checked_rows == 20
    assert len(asked) == 1


def test_a_machine_that_gives_no_thread_checks_the_chains_over_one_connection(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(snapshots, "MANY_ROWS", 1)
    monkeypatch.setattr(snapshots, "ThreadPoolExecutor", Pool)
    fill(stack, writer, 20)
    stack.execute("UPDATE owa_ledger SET hash_after = NULL WHERE id = 20")
    assert [one.kind for one in stack.snapshot().deviations] == ["null_hash"]


def test_a_store_that_loses_what_went_into_it_gets_no_head(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stack, writer, 20)
    settle = snapshots.PutHere.settle

    def lose(putter: Any) -> None:
        settle(putter)
        next((stack.folder / "store").rglob("segment/*")).unlink()

    monkeypatch.setattr(snapshots.PutHere, "settle", lose)
    assert refusal(stack).reason == "log.object_missing"
    monkeypatch.undo()
    assert not list((stack.folder / "store").rglob("checkpoint/*"))
    assert stack.snapshot().tree_size == 20
    assert stack.snapshot(verify="full").tree_size == 20


def test_wide_rows_make_shorter_segments(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(storing, "ROWS_AT_ONCE", 8)
    fill(stack, writer, 20)
    assert stack.snapshot().logged.segments == ((0, 8), (8, 16), (16, 20))
    assert stack.snapshot(verify="full").tree_size == 20


def test_a_column_that_is_gone_is_named(stack: Stack, writer: LedgerWriter) -> None:
    stack.execute("ALTER TABLE owa_ledger ADD COLUMN note text")
    fill(stack, writer, 30)
    stack.snapshot()
    stack.execute("ALTER TABLE owa_ledger DROP COLUMN note")
    for verify in ("incremental", "full"):
        error = refusal(stack, verify=verify)
        assert error.reason == "log.column_gone"
        assert "note" in str(error)
    assert error.reason in BROKEN_HISTORY


def test_a_new_origin_may_be_asked_for_after_any_row_was_changed(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 600)
    stack.snapshot()
    assert ask_for_an_origin(stack) == "log.nothing_to_restore"
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = 3")
    assert ask_for_an_origin(stack) == "approval.waiting"


def test_a_ledger_that_is_being_written_is_checked_on_one_connection(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []
    counted = snapshots._counted

    def watched(*arguments: Any) -> Any:
        used.append(arguments[-1])
        return counted(*arguments)

    monkeypatch.setattr(snapshots, "_counted", watched)
    monkeypatch.setattr(snapshots, "MANY_ROWS", 1)
    fill(stack, writer, 30)
    stack.snapshot()
    fill(stack, writer, 30)
    with psycopg.connect(stack.url) as other:
        other.execute(INSERT, writer.row())
        stack.snapshot(wait_seconds=0)
    assert used == [True, False]


def test_a_cut_ledger_stops_every_act(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    stack.execute("DELETE FROM owa_ledger WHERE id > 295")
    assert refusal(stack).reason == "log.rows_differ"
    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        require_intact(connection, stack.store, stack.policy)
    assert caught.value.reason == "log.rows_differ"


@pytest.mark.parametrize("rows_at_once", [7, 50_000])
def test_chains_are_verified_against_their_leaves(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(released_chains, "PORTION_ROWS", rows_at_once)
    fill(stack, writer, 300)
    stack.snapshot()
    fill(stack, writer, 100)
    stack.snapshot()
    chains = [Chain("53004085616", "GST", "2025-01"), Chain("53004085617", "PAYGW", "2025-02")]

    def verify() -> None:
        with stack.connection() as connection:
            verify_chains_against_leaves(connection, stack.store, stack.policy, chains)

    verify()
    [(row_id, other)] = stack.execute(
        "SELECT max(id) FILTER (WHERE abn = '53004085616' AND tax_type = 'GST'"
        " AND period_id = '2025-01'), max(id) FILTER (WHERE abn = '53004085618') FROM owa_ledger"
    )
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = %s", other)
    verify()
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = %s", row_id)
    with pytest.raises(ApgmsError) as caught:
        verify()
    assert caught.value.details["changed_ids"] == [[str(row_id), str(row_id)]]
    stack.execute("DELETE FROM owa_ledger WHERE id = %s", row_id)
    with pytest.raises(ApgmsError) as caught:
        verify()
    assert caught.value.reason == "log.rows_missing"


def test_a_row_outside_the_log_is_not_taken_for_verified(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 10)
    stack.snapshot()
    stack.execute(INSERT, *writer.row(chain=0))
    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        verify_chains_against_leaves(
            connection, stack.store, stack.policy, [Chain("53004085616", "GST", "2025-01")]
        )
    assert caught.value.reason == "log.not_admitted"


def flip(path: Path) -> None:
    """Change the last bit of a file."""
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))


def test_a_damaged_tile_and_a_damaged_segment_are_found(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 600)
    snapshot = stack.snapshot()
    log = stack.folder / "store" / "log" / snapshot.origin
    tile = log / "tile" / "0" / "001"
    flip(tile)
    assert refusal(stack, verify="full").reason == "log.tile_damaged"
    flip(tile)
    [segment] = (log / "segment").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b"\tGST\t", b"\tGSU\t", 1))
    assert refusal(stack, verify="full").reason == "log.segment_damaged"


def test_a_full_verification_names_all_damaged_objects_at_once(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "SEGMENT_ROWS", 256)
    monkeypatch.setattr(storing, "ROWS_AT_ONCE", 256)
    fill(stack, writer, 26 * 256)
    log = stack.folder / "store" / "log" / stack.snapshot().origin
    saved = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    tiles, segments = sorted(log.glob("tile/0/*")), sorted(log.glob("segment/*"))

    def refused(damage: Callable[[Path], None], *paths: Path) -> ApgmsError:
        for path in paths:
            damage(path)
        error = refusal(stack, verify="full")
        for path in paths:
            path.write_bytes(saved[path])
        return error

    for damage, paths, reason in (
        (flip, tiles[1:3], "log.tile_damaged"),
        (flip, segments[:2], "log.segment_damaged"),
        (Path.unlink, [tiles[4], segments[4]], "log.object_missing"),
    ):
        error = refused(damage, *paths)
        assert error.reason == reason
        names = ", ".join(sorted(str(path.relative_to(log)) for path in paths))
        assert f"{log}/: {names}. Why" in str(error)

    error = refused(flip, tiles[1], tiles[3], segments[2])
    assert error.reason == "log.object_damaged"
    assert "damaged tiles: tile/0/001, tile/0/003; damaged segments: segment/" in str(error)

    fill(stack, writer, 5)
    stack.snapshot()
    for path, damage, reason in (
        (log / "checkpoint" / "0000000000006656", flip, "log.object_damaged"),
        (log / "checkpoint" / "0000000000006656", Path.unlink, "log.object_missing"),
        (log / "plan" / "0000000000000000", Path.unlink, "log.object_missing"),
    ):
        saved[path] = path.read_bytes()
        error = refused(damage, path)
        assert (error.reason, f"{path.parent}/" in str(error)) == (reason, True)

    error = refused(flip, *segments)
    assert str(error).count("segment/0") == 20
    assert "and 6 more, 26 in all" in str(error)

    assert f"Where: file://{tiles[1]}. Why" in str(refused(flip, tiles[1]))
    assert stack.snapshot(verify="full").tree_size == 26 * 256 + 5


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/001.p/44"])
def test_a_tile_that_is_damaged_is_not_taken_for_a_damaged_segment(
    stack: Stack, writer: LedgerWriter, path: str
) -> None:
    for rows in (300, 400):
        fill(stack, writer, rows)
        stack.snapshot()
    [tile] = (stack.folder / "store").glob(f"log/*/*/{path}")
    flip(tile)
    for act in (stack.cosign, lambda: stack.snapshot(verify="full")):
        with pytest.raises(ApgmsError) as caught:
            act()
        assert (caught.value.reason, path in str(caught.value)) == ("log.tile_damaged", True)


def test_a_tile_that_an_earlier_head_had_on_its_right_edge_is_verified(
    stack: Stack, writer: LedgerWriter
) -> None:
    for rows in (300, 400):
        fill(stack, writer, rows)
        stack.snapshot()
    for path in ("tile/0/001.p/44", "tile/1/000.p/1"):
        [tile] = (stack.folder / "store").glob(f"log/*/*/{path}")
        good = tile.read_bytes()
        flip(tile)
        assert path in str(refusal(stack, verify="full"))
        tile.unlink()
        assert refusal(stack, verify="full").reason == "log.object_missing"
        tile.write_bytes(good)


def test_a_damaged_tile_on_the_path_of_a_proof_is_no_fork(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    stack.cosign()
    fill(stack, writer, 700)
    stack.snapshot()
    [tile] = (stack.folder / "store").rglob("tile/0/001")
    flip(tile)
    error = refusal(stack)
    assert error.reason == "log.tile_damaged"
    assert f"Where: file://{tile}. Why" in str(error)
    flip(tile)
    stack.snapshot(verify="full")


def test_a_damaged_right_edge_is_no_fork_to_who_confirmed_before(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 100)
    stack.snapshot()
    stack.cosign()
    fill(stack, writer, 588)
    stack.snapshot()
    [tile] = (stack.folder / "store").rglob("tile/0/002.p/176")
    flip(tile)
    with pytest.raises(ApgmsError, match=r"tile/0/002\.p/176") as caught:
        stack.cosign()
    assert caught.value.reason == "log.tile_damaged"


def test_a_damaged_right_edge_names_its_tiles(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    [tile] = (stack.folder / "store").rglob("tile/0/001.p/44")
    flip(tile)
    error = refusal(stack)
    assert error.reason == "log.tile_damaged"
    assert "tile/0/001.p/44, tile/1/000.p/1" in str(error)


@contextlib.contextmanager
def replaced_by_another_kind(path: Path) -> Iterator[None]:
    """Have a file stand where a folder stood, and a folder where a file stood."""
    aside = path.rename(path.with_name("aside"))
    path.mkdir() if aside.is_file() else path.write_bytes(b"")
    yield
    path.rmdir() if aside.is_file() else path.unlink()
    aside.rename(path)


@pytest.mark.parametrize("part", ["", "{size}", "{size}/{key}"])
@pytest.mark.parametrize("damage", [without_rights, replaced_by_another_kind])
def test_a_cosignature_that_cannot_be_read_is_not_taken_for_none(
    stack: Stack, writer: LedgerWriter, damage: Any, part: str
) -> None:
    fill(stack, writer, 10)
    stack.snapshot()
    stack.cosign()
    log = log_in_force(stack.store, stack.policy)
    [line] = (stack.folder / "store").rglob("cosignature/*/*")
    path = line.parents[1] / part.format(size=line.parent.name, key=line.name)
    with damage(path), pytest.raises(ApgmsError) as caught:
        log.cosigned()
    assert caught.value.reason == "object_store.unreachable"
    assert os.getuid() == 0 or str(path) in str(caught.value)  # nobody does not come so far
    assert stack.snapshot().cosigned_size == 10


def test_a_damaged_cosignature_is_not_taken_for_none(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 10)
    stack.snapshot()
    stack.cosign()
    [line] = (stack.folder / "store").rglob("cosignature/*/*")
    good = line.read_bytes()
    line.write_bytes(good.replace(b"A", b"B").replace(b"a", b"b"))
    error = refusal(stack)
    assert error.reason == "log.object_damaged"
    assert f"file://{line}" in str(error)
    line.write_bytes(good)
    assert stack.snapshot().cosigned_size == 10


def test_each_cosigner_rebuilds_the_tree_himself(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 30)
    stack.snapshot()
    assert stack.cosign().rebuilt_rows == 30
    second = open_signer(str(make_keys(stack.folder / "second", "prod").cosign_key), "ed25519")
    log = replace(
        stack.policy.log,
        cosigners={**stack.policy.log.cosigners, "second": second.public_pem.decode()},
    )
    found = cosign(stack.store, replace(stack.policy, log=log), second, SystemClock())
    assert (found.cosigner, found.confirmed_size, found.rebuilt_rows) == ("second", 0, 30)


def change_document(stack: Stack, size: int, was: bytes, becomes: bytes) -> None:
    [path] = (stack.folder / "store").rglob(f"snapshot/*{size}")
    data = path.read_bytes()
    assert was in data
    path.write_bytes(data.replace(was, becomes, 1))


@pytest.mark.parametrize("size", [200, 300])
def test_a_changed_document_of_a_snapshot_is_found(
    stack: Stack, writer: LedgerWriter, size: int
) -> None:
    for count in (200, 100):
        fill(stack, writer, count)
        stack.snapshot()
    change_document(stack, size, b'"rows":', b'"rows":1')
    assert refusal(stack, verify="full").reason == "log.object_damaged"
    fill(stack, writer, 100)
    if size == 300:
        assert "the database recorded" in str(refusal(stack))
    else:
        assert stack.snapshot().tree_size == 400


def test_a_document_whose_digest_no_database_has_recorded_is_taken(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 20)
    stack.snapshot()
    stack.execute("ALTER TABLE apgms_release.ledger_checkpoint DISABLE TRIGGER ALL")
    stack.execute("UPDATE apgms_release.ledger_checkpoint SET document_sha256 = NULL")
    assert stack.snapshot(verify="full").tree_size == 20
    change_document(stack, 20, b'"segments":[["0","20"]]', b'"segments":[[0]]')
    with pytest.raises(ApgmsError) as caught:
        stack.cosign()
    assert caught.value.reason == "log.object_damaged"
    next((stack.folder / "store").rglob("snapshot/*20")).unlink()
    assert refusal(stack).reason == "log.object_missing"


def confirm_and_grow(stack: Stack, writer: LedgerWriter) -> None:
    """Have 200 rows confirmed, and 100 more admitted after them."""
    fill(stack, writer, 200)
    stack.snapshot()
    stack.cosign()
    fill(stack, writer, 100)
    stack.snapshot()


@pytest.mark.parametrize("what", [b'"rows_sha256":"', b'"balance_cents":"', b'"chains":'])
@pytest.mark.parametrize("size", [200, 300])
def test_the_auditor_recounts_what_a_document_says_with_the_store_alone(
    stack: Stack, writer: LedgerWriter, what: bytes, size: int
) -> None:
    confirm_and_grow(stack, writer)
    [path] = (stack.folder / "store").rglob(f"snapshot/*{size}")
    digit = path.read_bytes().partition(what)[2][:1]
    change_document(stack, size, what + digit, what + (b"1" if digit != b"1" else b"2"))
    with pytest.raises(ApgmsError) as caught:
        stack.cosign()
    assert caught.value.reason == "log.object_damaged"


def test_the_auditor_confirms_no_balance_that_was_changed_alike_in_what_he_confirmed_before(
    stack: Stack, writer: LedgerWriter
) -> None:
    confirm_and_grow(stack, writer)
    for size in (200, 300):
        [path] = (stack.folder / "store").rglob(f"snapshot/*{size}")
        document = parse_canonical(path.read_bytes())
        entry = document["namespaces"]["gst"]
        entry["balance_cents"] = str(int(entry["balance_cents"]) - 5)
        path.write_bytes(canonical(document))
    with pytest.raises(ApgmsError) as caught:
        stack.cosign()
    assert caught.value.reason == "log.object_damaged"


# --- two histories --------------------------------------------------------------------------


def test_a_restored_database_is_detected_and_its_rows_named(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 50)
    stack.snapshot()
    fill(stack, writer, 10)
    stack.snapshot()
    stack.cosign()
    restore_to(stack, rows=50, tree_size=50)
    error = refusal(stack)
    assert error.reason == "log.database_behind"
    assert error.details["missing_ids"] == [["51", "60"]]
    fill(stack, LedgerWriter(seed=9), 10)
    assert refusal(stack).reason == "log.database_behind"


def restore_to(stack: Stack, rows: int, tree_size: int) -> None:
    """Put the database back to what it was, as a backup would."""
    stack.execute("DELETE FROM owa_ledger WHERE id > %s", rows)
    stack.execute("SELECT setval('owa_ledger_id_seq', %s)", rows)
    forget(stack, tree_size)


def test_a_store_that_lost_its_newest_objects_is_detected(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 50)
    stack.snapshot()
    stack.store = FolderStore(stack.folder / "another store")
    assert refusal(stack).reason == "log.store_behind"


def test_a_fork_is_detected(stack: Stack, writer: LedgerWriter, tmp_path: Path) -> None:
    fill(stack, writer, 50)
    stack.snapshot()
    forget(stack, 0)
    stack.execute("UPDATE owa_ledger SET created_at = now() WHERE id = 50")
    there, stack.store = stack.store, FolderStore(stack.folder / "another store")
    stack.snapshot()
    stack.store = there
    assert refusal(stack).reason == "log.forked"


def test_a_checkpoint_signed_by_another_key_is_refused(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 5)
    snapshot = stack.snapshot()
    [path] = (stack.folder / "store/log" / snapshot.origin / "checkpoint").iterdir()
    path.write_bytes(snapshot.checkpoint.replace(b"\n5\n", b"\n6\n"))
    assert refusal(stack).reason == "log.checkpoint_invalid"


# --- cut off anywhere -----------------------------------------------------------------------


class _CutOff(Exception):
    pass


class _Cutting(FolderStore):
    """A store that dies before its n-th put."""

    def __init__(self, root: Path, puts: int) -> None:
        super().__init__(root)
        self._left = puts

    def put_new(self, key: str, data: bytes | Path) -> bool:
        if self._left == 0:
            raise _CutOff
        self._left -= 1
        return super().put_new(key, data)

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        for key, data in objects:
            self.put_new(key, data)


def test_a_snapshot_cut_off_at_any_put_is_taken_up_again(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    cut_off = 0
    for puts in range(9):
        fill(stack, writer, 250)
        try:
            stack.snapshot(store=_Cutting(stack.folder / "store", puts))
        except _CutOff:
            cut_off += 1
        fill(stack, writer, 5)  # rows that come before it is taken up again
        stack.snapshot()
        rows = 300 + 255 * (puts + 1)
        last = stack.snapshot()
        assert (last.tree_size, last.root) == (rows, root_by_hand(stack))
    assert 6 <= cut_off < 9
    stack.snapshot(verify="full")


def test_a_snapshot_that_was_stored_but_not_recorded_is_recorded(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stack, writer, 30)

    def cut_off(*_arguments: object) -> None:
        raise _CutOff

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "record", cut_off)
        with pytest.raises(_CutOff):
            stack.snapshot()
    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        require_intact(connection, stack.store, stack.policy)
    assert caught.value.reason == "log.unfinished"
    assert stack.snapshot().tree_size == 30
    with stack.connection() as connection:
        assert require_intact(connection, stack.store, stack.policy).tree_size == 30


# --- check mode -----------------------------------------------------------------------------


def test_a_rehearsal_predicts_the_same_checkpoint_and_leaves_nothing(
    stack: Stack, writer: LedgerWriter
) -> None:
    fill(stack, writer, 300)
    stack.snapshot()
    fill(stack, writer, 40)
    before = sorted(stack.store.keys("log/"))
    with stack.connection() as connection, rehearsal(connection):
        predicted = stack.snapshot_over(connection, store=OverlayStore(stack.store))
    assert sorted(stack.store.keys("log/")) == before
    assert stack.snapshot().result() == predicted.result()


def test_a_rehearsal_is_not_misled_by_rows_that_come_meanwhile(
    stack: Stack, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stack, writer, 20)
    stack.execute("DELETE FROM owa_ledger WHERE id IN (5, 6)")
    require_values = admission.require_values

    def come(*arguments: Any) -> None:
        insert_as(stack, 5, writer.row())
        require_values(*arguments)

    monkeypatch.setattr(admission, "require_values", come)
    with stack.connection() as connection, rehearsal(connection):
        predicted = stack.snapshot_over(connection, store=OverlayStore(stack.store))
    assert predicted.tree_size == 18


def test_the_log_key_must_be_the_pinned_one(stack: Stack, writer: LedgerWriter) -> None:
    stack.keys.log_key.write_bytes(stack.keys.cosign_key.read_bytes())
    assert refusal(stack).reason == "log.wrong_key"


def test_snapshots_at_once_wait_for_each_other(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 500)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(stack.snapshot().tree_size)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [500, 500, 500]
