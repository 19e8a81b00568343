"""Damaged ledgers: named, refused as the basis of a rollback, and put right under a statement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import rehearsal
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import restore
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.snapshot import (
    take_snapshot,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import turn
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
    """A stack with a release and two snapshots."""
    stack = Stack(tmp_path_factory.mktemp("prepared"), module_database_url, gateway).prepare()
    stack.release(stack.bundle())
    snapshot(stack)
    return stack


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Iterator[Stack]:
    with rollbacks.copied(prepared, tmp_path / "prod") as stack:
        yield stack


def snapshot(stack: Stack) -> None:
    with stack.connection() as connection:
        ports = rollbacks.ports(stack, connection)
        take_snapshot(connection, ports.store, ports.log_signer, ports.policy, ports.clock)


def find(stack: Stack) -> restore.Damage:
    with stack.connection() as connection, rehearsal(connection):
        ports = rollbacks.ports(stack, connection)
        return restore.predict(connection, ports.store, ports.policy)


def put_back(stack: Stack) -> restore.Damage:
    with stack.connection() as connection:
        ports = rollbacks.ports(stack, connection)
        return restore.restore(
            ports, operator="operator", holder="test", statements_dir=str(stack.statements)
        )


def approve(stack: Stack, damage: restore.Damage, signer: str = "auditor") -> None:
    with stack.connection() as connection:
        now = stack.clock(connection).now()
    stack.sign("restore", signer, {"act": restore.ACT, "sha256": damage.sha256}, now)


def ledger(stack: Stack) -> list[Any]:
    return rollbacks.rows(stack, "SELECT * FROM owa_ledger ORDER BY id")


def delete(stack: Stack, *ids: int) -> None:
    rollbacks.execute(stack, "DELETE FROM owa_ledger WHERE id = ANY(%s)", list(ids))


def test_missing_rows_are_put_back_as_they_were(stack: Stack) -> None:
    before = ledger(stack)
    last = before[-1][0]
    delete(stack, 1, 7, 8, last)
    damage = find(stack)
    assert damage.words == f"missing: 1, 7-8, {last}"
    approve(stack, damage)
    assert put_back(stack) == damage
    assert ledger(stack) == before
    assert rollbacks.check(stack).problems == []
    audit = rollbacks.rows(stack, "SELECT action FROM audit_log ORDER BY seq DESC LIMIT 1")
    assert audit == [("ledger_restore",)]
    assert put_back(stack).words == "none"


def test_rows_with_a_generated_column_come_back(stack: Stack) -> None:
    rollbacks.execute(
        stack,
        "ALTER TABLE owa_ledger ADD COLUMN dollars numeric"
        " GENERATED ALWAYS AS (amount_cents / 100.0) STORED",
    )
    rollbacks.execute(
        stack,
        "INSERT INTO owa_ledger (abn, tax_type, period_id, transfer_uuid, amount_cents,"
        " balance_after_cents) VALUES ('1', 'GST', '2025-09', gen_random_uuid(), 5, 5)",
    )
    snapshot(stack)
    before = ledger(stack)
    delete(stack, before[-1][0])
    approve(stack, find(stack))
    put_back(stack)
    assert ledger(stack) == before


def test_a_whole_emptied_ledger_comes_back(stack: Stack) -> None:
    before = ledger(stack)
    rollbacks.execute(stack, "DELETE FROM owa_ledger")
    rollbacks.execute(stack, "ALTER SEQUENCE owa_ledger_id_seq RESTART")
    approve(stack, find(stack))
    put_back(stack)
    assert ledger(stack) == before
    rollbacks.book(stack, before[-1][1:4], 5)  # the sequence stands above the rows put back
    assert len(ledger(stack)) == len(before) + 1


def test_nothing_is_put_back_without_the_statement(stack: Stack) -> None:
    delete(stack, 3)
    before = ledger(stack)
    with pytest.raises(ApgmsError) as error:
        put_back(stack)
    assert error.value.reason == "approval.waiting"
    assert ledger(stack) == before


def test_a_statement_about_other_damage_does_not_count(stack: Stack) -> None:
    delete(stack, 3)
    approve(stack, find(stack))
    delete(stack, 4)
    with pytest.raises(ApgmsError) as error:
        put_back(stack)
    assert error.value.reason == "approval.waiting"


def test_a_changed_row_is_kept_aside_and_not_overwritten(stack: Stack) -> None:
    rollbacks.execute(stack, "UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 5")
    delete(stack, 6)
    before = ledger(stack)
    with pytest.raises(ApgmsError, match="rows 5") as error:
        put_back(stack)
    assert error.value.reason == "restore.changed_rows"
    assert ledger(stack) == before
    (folder,) = (stack.folder / "store" / "damage").iterdir()
    assert json.loads((folder / "damage.json").read_bytes())["changed"] == [["5", "5"]]
    (aside,) = folder.glob("changed-*.copy")
    assert aside.read_bytes().splitlines()[1].startswith(b"5\t")
    delete(stack, 5)
    approve(stack, find(stack))
    put_back(stack)
    assert rollbacks.check(stack).problems == []


def test_a_trigger_that_alters_the_rows_is_found_and_nothing_changes(stack: Stack) -> None:
    delete(stack, 3)
    rollbacks.execute(
        stack,
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.created_at = now(); RETURN NEW; END'",
    )
    rollbacks.execute(
        stack,
        "CREATE TRIGGER meddle BEFORE INSERT ON owa_ledger FOR EACH ROW EXECUTE FUNCTION meddle()",
    )
    approve(stack, find(stack))
    before = ledger(stack)
    with pytest.raises(ApgmsError) as error:
        put_back(stack)
    assert error.value.reason == "restore.not_the_same"
    assert ledger(stack) == before


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("DELETE FROM owa_ledger WHERE id IN (2, 3)", "missing: 2-3"),
        ("UPDATE owa_ledger SET created_at = now() WHERE id = 9", "changed: 9"),
        ("DELETE FROM owa_ledger WHERE id > 100", "missing: 101-"),
    ],
)
def test_a_damaged_ledger_is_no_basis_of_a_rollback(
    stack: Stack, statement: str, word: str
) -> None:
    target = str(stack.one("SELECT manifest_sha256 FROM apgms_release.release"))
    rollbacks.execute(stack, statement)
    before = rollbacks.everything(stack)
    with pytest.raises(ApgmsError, match=word) as error:
        rollbacks.predict(stack, target)
    assert error.value.reason == "rollback.damaged_ledger"
    assert "restore" in str(error.value)
    assert rollbacks.everything(stack) == before
    assert any(word.partition(":")[0] in one for one in rollbacks.check(stack).problems)


def options(stack: Stack) -> dict[str, Any]:
    return {
        "stack": "prod",
        "database_url": stack.database_url,
        "object_store": stack.store.url,
        "policy": stack.policy_path,
        "statements": str(stack.statements),
        "operator": "operator",
    }


def test_the_module_predicts_what_it_does(stack: Stack) -> None:
    assert not run_module("ledger_restore", options(stack))["changed"]
    delete(stack, 2)
    before = rollbacks.everything(stack)
    planned = run_module("ledger_restore", options(stack), check=True)
    assert rollbacks.everything(stack) == before
    approve(stack, find(stack))
    done = run_module("ledger_restore", options(stack))
    assert done["changed"]
    assert {**done, "invocation": 0} == {**planned, "invocation": 0}
    assert done["diff"] == {"before": "missing: 2", "after": "none"}


def play(stack: Stack, *arguments: str) -> tuple[int, str]:
    """Run the playbook; return its status and what it says at the end."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "apgms_flags": {"SEED": 0, "SMOKE": 0, "DRY_RUN": 0},
        "stack_guard_required": [],
        **{f"apgms_{name}": value for name, value in options(stack).items()},
    }
    inventory = stack.folder / "hosts.yml"
    inventory.write_text(json.dumps({"prod": {"hosts": {"apgms-prod": variables}}}))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory,
         "playbooks/restore.yml", *arguments],
        cwd=ROOT, env={**os.environ, "STACK": "prod"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.strip().splitlines()[-1]


def test_the_playbook_predicts_waits_restores_and_then_changes_nothing(stack: Stack) -> None:
    delete(stack, 2)
    assert play(stack) == (2, "apgms-prod: stopped, 1 steps, changed=0")
    approve(stack, find(stack))
    status, said = play(stack, "--check", "--diff")
    assert (status, said.rpartition(" ")[2]) == (0, "changed=1")
    assert find(stack).words == "missing: 2"
    assert play(stack) == (0, "apgms-prod: done, 2 steps, changed=1")
    assert play(stack) == (0, "apgms-prod: done, 2 steps, changed=0")


def test_the_kill_switch_stops_it(stack: Stack) -> None:
    delete(stack, 3)
    approve(stack, find(stack))
    before = ledger(stack)
    with stack.connection() as connection:
        turn(connection, "prod", engaged=True, reason="look first", actor="olivia")
    for check in (True, False):
        refused = run_module("ledger_restore", options(stack), check=check)
        assert refused["reason"] == "kill_switch.on"
        assert "olivia set it" in refused["msg"]
    assert ledger(stack) == before
