"""The independent check finds what was done to a ledger, its log or a rollback."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger import recount
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts import progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    check as ledger_check,
)
from tests import rollbacks
from tests.conftest import ROOT
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess
from tests.module_process import run_module


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def prepared(
    module_database_url: str, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    """A stack that was released and, after a late deposit, rolled back to the release."""
    stack = Stack(tmp_path_factory.mktemp("prepared"), module_database_url, gateway).prepare()
    manifest = stack.bundle()
    stack.release(manifest)
    chain = rollbacks.rows(stack, "SELECT abn, tax_type, period_id FROM periods LIMIT 1")[0]
    rollbacks.book(stack, chain, 700)
    rollbacks.book(stack, chain, 50)
    rollbacks.roll_back(stack, manifest.checksum)
    return stack


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Iterator[Stack]:
    with rollbacks.copied(prepared, tmp_path / "prod") as stack:
        yield stack


def rewrite(stack: Stack, statement: str) -> None:
    """Change what only a holder of the database's own credentials can change."""
    with stack.connection() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())


def test_a_whole_ledger_passes(stack: Stack) -> None:
    findings = rollbacks.check(stack)
    assert (findings.problems, findings.deviations, findings.not_admitted) == ([], {}, 0)
    assert findings.rollbacks == 1
    assert findings.rows == stack.one("SELECT count(*) FROM owa_ledger")


def test_rows_after_the_last_snapshot_are_counted(stack: Stack) -> None:
    rollbacks.book(stack, ("53004085616", "GST", "2025-09"), 10)
    findings = rollbacks.check(stack)
    assert (findings.problems, findings.not_admitted) == ([], 1)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE owa_ledger SET created_at = now() WHERE id = 4", "changed row: rows 4"),
        ("DELETE FROM owa_ledger WHERE id = 4", "missing row: rows 4"),
        ("UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 4", "wrong balance"),
        ("UPDATE owa_ledger SET prev_hash = 'x' WHERE id = 4", "wrong link"),
        ("UPDATE owa_ledger SET hash_after = 'x' WHERE id = 4", "wrong hash"),
        (
            "UPDATE apgms_release.mirror SET mirror_uuid = gen_random_uuid()",
            "a mirror pair is torn",
        ),
        (
            "UPDATE apgms_release.mirror SET mirror_uuid ="
            " (SELECT mirror_uuid FROM apgms_release.mirror LIMIT 1)",
            "do not negate their originals",
        ),
        (
            "UPDATE apgms_release.rollback SET balances_sha256 = repeat('0', 64)",
            "does not name the balances of its target",
        ),
        (
            "UPDATE apgms_release.rollback SET target_tree_size = target_tree_size - 1",
            "does not name the balances of its target",
        ),
        (
            "UPDATE apgms_release.rollback SET tree_size_after = tree_size_after - 1",
            "the balances after it are not those of its target",
        ),
        (
            "UPDATE apgms_release.rollback SET root_before = repeat('0', 64)",
            "the ledger before it is not a prefix",
        ),
        (
            "UPDATE apgms_release.rollback SET root_after = repeat('0', 64)",
            "the ledger after it is not a prefix",
        ),
        (
            "UPDATE apgms_release.rollback SET tree_size_after = NULL",
            "was carried out but never proven",
        ),
        (
            "INSERT INTO apgms_release.standing_payout SELECT plan_sha256, 1"
            " FROM apgms_release.rollback",
            "are no acknowledged payouts: 1",
        ),
        (
            "DELETE FROM apgms_release.standing_payout",
            "does not name the balances of its target",
        ),
    ],
)
def test_each_damage_is_found(stack: Stack, statement: str, problem: str) -> None:
    rewrite(stack, statement)
    assert any(problem in found for found in rollbacks.check(stack).problems)


def test_known_deviations_are_told_of_and_pass(stack: Stack) -> None:
    chain = ("53004085616", "GST", "2024Q4")
    rollbacks.book(stack, chain, 10, hash_after=None, prev_hash=None)
    row = stack.one("SELECT max(id) FROM owa_ledger")
    findings = rollbacks.check(stack)
    assert findings.deviations == {"no hash": [row]}
    assert findings.problems == []


def test_an_id_that_rows_share_is_found(stack: Stack) -> None:
    rewrite(stack, "ALTER TABLE owa_ledger DROP CONSTRAINT owa_ledger_pkey CASCADE")
    rewrite(
        stack,
        "INSERT INTO owa_ledger (id, abn, tax_type, period_id, transfer_uuid, amount_cents,"
        " balance_after_cents) SELECT id, abn, tax_type, '2031Q1', gen_random_uuid(), 5, 5"
        " FROM owa_ledger WHERE id = 4",
    )
    found = rollbacks.check(stack)
    assert "repeated id: rows 4" in found.problems
    assert found.not_admitted == 1


def first_object(stack: Stack, kind: str) -> Path:
    return sorted((stack.folder / "store" / "log").rglob(f"{kind}/*"))[0]


@pytest.mark.parametrize(
    ("torn", "why"),
    [
        (lambda data: data[:-30], "is not a whole row of"),
        (lambda data: data[:-1], "is not a whole row of"),
        (lambda data: data[data.index(b"\n") + 1 :], "its first line names no column id"),
        (lambda data: b"", "its first line names no column id"),
        (lambda data: b"\xff" + data, "can't decode byte 0xff"),
    ],
)
def test_a_torn_segment_is_one_message(
    stack: Stack, torn: Callable[[bytes], bytes], why: str
) -> None:
    segment = first_object(stack, "segment")
    segment.write_bytes(torn(segment.read_bytes()))
    with pytest.raises(ApgmsError, match=why) as error:
        rollbacks.check(stack)
    assert error.value.reason == "ledger_check.unreadable"
    assert str(segment) in str(error.value)


def test_a_torn_checkpoint_is_one_message(stack: Stack) -> None:
    newest = sorted((stack.folder / "store" / "log").rglob("checkpoint/*"))[-1]
    newest.write_bytes(newest.read_bytes().rpartition(b" ")[0])
    with pytest.raises(ApgmsError, match="signature line does not have three parts") as error:
        rollbacks.check(stack)
    assert error.value.reason == "ledger_check.unreadable"


def test_it_says_how_far_it_is(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(ledger_check, "ROWS_AT_ONCE", 1)
    said: list[str] = []
    found = rollbacks.check(stack, progress.Progress(said.append))
    archived = [line for line in said if line.startswith("Checking archived rows: ")]
    chains = [line for line in said if line.startswith("Checking chains: ")]
    assert f": {found.tree_size} of {found.tree_size} rows (100 %)" in archived[-1]
    assert f": {found.rows} of {found.rows} rows (100 %)" in chains[-1]
    assert len(chains) == 1 + found.rows


def test_an_altered_segment_is_found(stack: Stack) -> None:
    segment = first_object(stack, "segment")
    segment.write_bytes(segment.read_bytes().replace(b"GST", b"gst", 1))
    problems = rollbacks.check(stack).problems
    assert any("do not give the root" in one for one in problems)


def test_a_checkpoint_of_another_key_is_found(stack: Stack) -> None:
    newest = sorted((stack.folder / "store" / "log").rglob("checkpoint/*"))[-1]
    note = newest.read_bytes()
    newest.write_bytes(note[:-8] + (b"A" if note[-8:-7] != b"A" else b"B") + note[-7:])
    assert any("is not signed" in one for one in rollbacks.check(stack).problems)


def test_without_a_log_there_is_nothing_to_check_against(stack: Stack) -> None:
    for path in (stack.folder / "store" / "log").rglob("checkpoint/*"):
        path.unlink()
    with pytest.raises(ApgmsError) as error:
        rollbacks.check(stack)
    assert error.value.reason == "ledger_check.no_log"


def test_the_module_fails_on_a_problem_and_changes_nothing(stack: Stack) -> None:
    options = {
        "stack": "prod",
        "database_url": stack.database_url,
        "object_store": stack.store.url,
        "policy": stack.policy_path,
    }
    before = rollbacks.everything(stack)
    found = run_module("ledger_check", options)
    assert (found["changed"], found["problems"]) == (False, [])
    assert rollbacks.everything(stack) == before
    rewrite(stack, "DELETE FROM owa_ledger WHERE id = 4")
    found = run_module("ledger_check", options, check=True)
    assert found["failed"]
    assert "missing row: rows 4" in found["msg"]


CORE = ROOT / "plugins" / "module_utils"
FOLDERS = ("domain/ledger", "usecases/ledger", "usecases/rollback")
WRITERS = {path.stem for folder in FOLDERS for path in (CORE / folder).glob("[!_]*.py")}
WRITERS = WRITERS - {"check", "recount"} | {"canonical", "database"}
"""What snapshots, releases and rollbacks compute with."""
SHARED = {"leaf": {"OUTPUT_SETTINGS"}, "origin": {"log_in_force"}, "database": {"Connection"}}
"""Formats alone: the settings that rows print under, where the log stands, a name for types."""


def imports(module: object) -> dict[str, set[str]]:
    """Return what a module imports from the core, by the last name of where it stands."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.ImportFrom) and node.level:
            for name in node.names:
                found[(node.module or "").rpartition(".")[2]].add(name.name)
                found[name.name].add("*")
    return found


@pytest.mark.parametrize("module", [recount, ledger_check])
def test_it_shares_no_hashing_and_no_sql(module: object) -> None:
    assert {"tree", "storing", "planning"} <= WRITERS
    taken = {name: names for name, names in imports(module).items() if name in WRITERS}
    assert {name: names for name, names in taken.items() if names - SHARED.get(name, set())} == {}
