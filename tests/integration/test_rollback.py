"""Rollbacks on a stack with two releases: a real database, gateway and object store."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.info import (
    past_releases,
    require_not_undone,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import turn
from services.keys import write_policy
from tests import rollbacks
from tests.conftest import ROOT
from tests.faults.stack import REVISION, Stack
from tests.gateway_process import GatewayProcess
from tests.module_process import PACKAGE, run_module

OTHER: rollbacks.Key = ("83914571673", "GST", "2025-09")
"""A period that no release of these tests holds."""


@dataclass
class Memory:
    """What a stack was after its first release, and the two releases' checksums."""

    first: str
    second: str
    balances: dict[rollbacks.Key, int]
    periods: dict[rollbacks.Key, str]
    tokens: dict[int, str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def prepared(
    module_database_url: str, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Stack, Memory]:
    stack = Stack(tmp_path_factory.mktemp("prepared"), module_database_url, gateway).prepare()
    rollbacks.execute(
        stack,
        "INSERT INTO periods (abn, tax_type, period_id, state, accrued_cents)"
        " VALUES (%s, %s, %s, 'OPEN', 4500)",
        *OTHER,
    )
    rollbacks.book(stack, OTHER, 4500)
    first = stack.bundle("first")
    stack.release(first)
    memory = Memory(
        first.checksum,
        "",
        rollbacks.balances(stack),
        rollbacks.periods(stack),
        rollbacks.tokens(stack),
    )
    with stack.connection() as connection:
        stack.load(connection, 3, seed=2)
    second = stack.bundle("second")
    stack.release(second)
    memory.second = second.checksum
    with stack.connection() as connection:
        stack.load(connection, 3, seed=3)
    rollbacks.book(stack, OTHER, 500)
    rollbacks.execute(
        stack, "UPDATE periods SET state = 'CLOSING', accrued_cents = 5000 WHERE abn = %s", OTHER[0]
    )
    return stack, memory


@pytest.fixture
def memory(prepared: tuple[Stack, Memory]) -> Memory:
    return prepared[1]


@pytest.fixture
def stack(prepared: tuple[Stack, Memory], tmp_path: Path) -> Iterator[Stack]:
    with rollbacks.copied(prepared[0], tmp_path / "prod") as stack:
        yield stack
        stack.gateway.plan()


def second_claims(stack: Stack, memory: Memory) -> list[Any]:
    return rollbacks.rows(
        stack,
        "SELECT abn, tax_type, period_id, amount_cents, rpt_id FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s ORDER BY rpt_id",
        memory.second,
    )


def assert_rolled_back(stack: Stack, memory: Memory) -> None:
    """Everything is as after the first release, except what the authority holds since."""
    assert rollbacks.balances(stack) == memory.balances
    claims = second_claims(stack, memory)
    held = {tuple(claim[:3]) for claim in claims}
    for key, state in rollbacks.periods(stack).items():
        assert state == memory.periods.get(key, "RELEASED" if key in held else "OPEN")
    consumed = {claim[4] for claim in claims}
    for number, status in rollbacks.tokens(stack).items():
        default = "consumed" if number in consumed else "REVOKED"
        assert status == memory.tokens.get(number, default)
    owed = rollbacks.rows(
        stack, "SELECT manifest_sha256, rpt_id FROM apgms_release.obligation ORDER BY rpt_id"
    )
    assert owed == [(memory.second, claim[4]) for claim in claims]
    assert rollbacks.check(stack).problems == []


def test_a_rollback_does_what_its_plan_showed(stack: Stack, memory: Memory) -> None:
    planned = rollbacks.predict(stack, memory.first[:12])
    assert planned.plan is not None
    claims = second_claims(stack, memory)
    done = rollbacks.carry_out(stack, memory.first, planned.plan.digest)
    assert done.plan == planned.plan
    assert done.changed
    assert_rolled_back(stack, memory)
    totals = done.plan.totals()
    assert totals["obligations_cents"] == str(sum(claim[3] for claim in claims))
    assert totals["undone_releases"] == 1
    mirrored = rollbacks.rows(stack, "SELECT count(*) FROM apgms_release.mirror")[0][0]
    assert totals["originals"] == totals["entries"] == mirrored


def test_the_kill_switch_does_not_stop_it(
    stack: Stack, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTO_KILL_SWITCH", "1")
    with stack.connection() as connection:
        turn(connection, "prod", engaged=True, reason="duplicate credits", actor="olivia")
    planned = rollbacks.predict(stack, memory.first)
    assert planned.plan is not None
    assert rollbacks.carry_out(stack, memory.first, planned.plan.digest).changed
    assert_rolled_back(stack, memory)


def test_the_payouts_of_the_target_stand(stack: Stack, memory: Memory) -> None:
    planned = rollbacks.predict(stack, memory.first)
    assert planned.plan is not None
    paid = rollbacks.rows(
        stack,
        "SELECT count(*), -sum(amount_cents)::bigint FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s",
        memory.first,
    )
    assert planned.plan.standing_payouts == paid[0]


def test_run_again_it_changes_nothing(stack: Stack, memory: Memory) -> None:
    done = rollbacks.roll_back(stack, memory.first)
    before = rollbacks.everything(stack)
    again = rollbacks.carry_out(stack, memory.first, done.plan.digest if done.plan else "")
    assert not again.changed
    anew = rollbacks.predict(stack, memory.first)
    assert anew.plan is not None and anew.plan.empty and not anew.changed
    once_more = rollbacks.carry_out(stack, memory.first, anew.plan.digest)
    assert not once_more.changed
    after = rollbacks.everything(stack)
    assert {name for name in after if after[name] != before.get(name)} == {"apgms_release.lease"}


def test_what_is_left_on_record(stack: Stack, memory: Memory) -> None:
    done = rollbacks.roll_back(stack, memory.first)
    assert done.applied is not None
    incident = json.loads(
        (stack.folder / "store" / "incidents" / f"{done.applied.incident_id}.json").read_bytes()
    )
    assert incident["reason"] == "duplicate deposits"
    assert incident["undone_releases"] == [memory.second]
    assert len(incident["obligations"]) == len(second_claims(stack, memory))
    plan = stack.folder / "store" / "rollbacks" / done.applied.plan_sha256 / "plan.jsonl"
    assert plan.read_bytes() == b"".join(done.plan.lines() if done.plan else ())
    topics = rollbacks.rows(stack, "SELECT topic FROM apgms_release.outbox ORDER BY topic")
    assert topics == [("incident",), ("rollback",)]
    assert rollbacks.rows(
        stack, "SELECT actor, action FROM audit_log ORDER BY seq DESC LIMIT 1"
    ) == [("operator", "rollback")]
    closed = rollbacks.rows(
        stack, "SELECT incident_id, reason, source_revision FROM apgms_release.window_closure"
    )
    assert closed == [(done.applied.incident_id, "duplicate deposits", REVISION)]
    with stack.connection() as connection:
        journal = Journal(connection, stack.store, "prod", stack.clock(connection))
        journal.verify()
        events = [row.event for row in journal.rows()]
        assert events[-3:] == ["window.closed", "rollback.applied", "rollback.proven"]


def test_the_operators_intent_is_kept_and_used_up(stack: Stack, memory: Memory) -> None:
    done = rollbacks.roll_back(stack, memory.first)
    assert done.applied is not None
    folder = stack.folder / "store" / "rollbacks" / done.applied.plan_sha256 / "statements"
    (intent,) = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    assert intent["kind"] == "intent"
    assert intent["subject"] == {
        "act": "rollback",
        "manifest_sha256": memory.first,
        "plan_sha256": done.applied.plan_sha256,
    }
    used = rollbacks.rows(
        stack, "SELECT signer FROM apgms_release.used_statement WHERE nonce = %s", intent["nonce"]
    )
    assert used == [("operator",)]


def module_options(stack: Stack, target: str, **changes: Any) -> dict[str, Any]:
    return {
        "stack": "prod",
        "database_url": stack.database_url,
        "object_store": stack.store.url,
        "policy": stack.policy_path,
        "statements": str(stack.statements),
        "log_key": str(stack.keys.log_key),
        "operator": "operator",
        "operator_key": str(stack.keys.person("operator")),
        "target": target,
        **changes,
    }


def test_check_mode_changes_nothing_anywhere_and_predicts_the_run(
    stack: Stack, memory: Memory
) -> None:
    before = rollbacks.everything(stack)
    planned = run_module("rollback", module_options(stack, memory.first), check=True)
    assert rollbacks.everything(stack) == before
    assert planned["changed"]
    done = run_module(
        "rollback", module_options(stack, memory.first, plan_sha256=planned["plan_sha256"])
    )
    assert done["changed"]
    assert done["diff"] == planned["diff"]
    for name in ("totals", "chains", "states", "obligations", "balances_sha256", "undone"):
        assert done[name] == planned[name]
    assert_rolled_back(stack, memory)
    again = run_module(
        "rollback", module_options(stack, memory.first, plan_sha256=planned["plan_sha256"])
    )
    assert not again["changed"]
    assert again["proven"]


def test_the_diff_shows_balances_states_and_obligations(stack: Stack, memory: Memory) -> None:
    diff = run_module("rollback", module_options(stack, memory.first), check=True)["diff"]
    name = " ".join(OTHER)
    assert diff["before"]["balances"][name] == "5000 cents"
    assert diff["after"]["balances"][name] == (
        "4500 cents: 1 rows mirror 1 (credits 500, debits 0 cents)"
    )
    period = rollbacks.rows(stack, "SELECT id FROM periods WHERE abn = %s", OTHER[0])[0][0]
    key = f"periods {period} ({name})"
    assert diff["before"]["states"][key] == {"state": "CLOSING", "accrued_cents": "5000"}
    assert diff["after"]["states"][key] == {
        "state": "OPEN",
        "accrued_cents": "4500",
        "by": "restore",
    }
    assert len(diff["after"]["obligations"]) == len(second_claims(stack, memory))
    assert diff["after"]["window"] == "shut"


def assert_refused(stack: Stack, reason: str, *arguments: Any, **changes: Any) -> ApgmsError:
    before = rollbacks.balances(stack), rollbacks.periods(stack), rollbacks.tokens(stack)
    with pytest.raises(ApgmsError) as error:
        rollbacks.carry_out(stack, *arguments, **changes)
    assert error.value.reason == reason
    assert (rollbacks.balances(stack), rollbacks.periods(stack), rollbacks.tokens(stack)) == before
    assert rollbacks.rows(stack, "SELECT count(*) FROM apgms_release.rollback") == [(0,)]
    return error.value


def planned_digest(stack: Stack, target: str) -> str:
    plan = rollbacks.predict(stack, target).plan
    assert plan is not None
    return plan.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda stack: rollbacks.book(stack, OTHER, 1),
        lambda stack: rollbacks.execute(stack, "UPDATE periods SET state = 'BLOCKED_ANOMALY'"
                                        " WHERE abn = %s", OTHER[0]),
    ],
)  # fmt: skip
def test_a_stale_plan_is_refused(stack: Stack, memory: Memory, change: Any) -> None:
    digest = planned_digest(stack, memory.first)
    change(stack)
    assert_refused(stack, "rollback.stale_plan", memory.first, digest)
    assert_rolled_back_after_planning_anew(stack, memory)


def assert_rolled_back_after_planning_anew(stack: Stack, memory: Memory) -> None:
    rollbacks.roll_back(stack, memory.first)
    assert_rolled_back(stack, memory)


def test_a_plan_must_be_named(stack: Stack, memory: Memory) -> None:
    with pytest.raises(ApgmsError) as error, stack.connection() as connection:
        rollbacks.use_case.rollback(
            rollbacks.order(stack, memory.first), rollbacks.ports(stack, connection)
        )
    assert error.value.reason == "rollback.no_plan"


def test_an_operator_without_a_key_is_refused(stack: Stack, memory: Memory) -> None:
    digest = planned_digest(stack, memory.first)
    assert_refused(stack, "rollback.no_key", memory.first, digest, operator_key=None)


def test_somebody_elses_key_is_refused(stack: Stack, memory: Memory) -> None:
    digest = planned_digest(stack, memory.first)
    key = str(stack.keys.person("auditor"))
    with pytest.raises(ApgmsError) as error:
        rollbacks.carry_out(stack, memory.first, digest, operator_key=key)
    assert error.value.reason.startswith("signature.")


def test_an_unknown_target_is_refused(stack: Stack) -> None:
    with pytest.raises(ApgmsError) as error:
        rollbacks.predict(stack, "0" * 64)
    assert error.value.reason == "rollback.unknown_target"


def test_an_open_release_must_be_finished_first(stack: Stack, memory: Memory) -> None:
    digest = planned_digest(stack, memory.first)
    rollbacks.execute(
        stack,
        "UPDATE apgms_release.release SET state = 'UNKNOWN' WHERE manifest_sha256 = %s",
        memory.second,
    )
    assert_refused(stack, "release.other_open", memory.first, digest)


def test_an_altered_image_is_refused(stack: Stack, memory: Memory) -> None:
    image = stack.folder / "store" / "releases" / memory.first / "image.jsonl"
    image.write_bytes(image.read_bytes().replace(b'"OPEN"', b'"READY_RPT"', 1))
    with pytest.raises(ApgmsError) as error:
        rollbacks.predict(stack, memory.first)
    assert error.value.reason == "rollback.unusable_image"


def test_an_undone_release_is_no_target_and_is_not_sent_again(stack: Stack, memory: Memory) -> None:
    rollbacks.roll_back(stack, memory.first)
    with pytest.raises(ApgmsError, match="rolled back itself") as error:
        rollbacks.predict(stack, memory.second)
    assert error.value.reason == "rollback.bad_target"
    with stack.connection() as connection:
        releases = past_releases(connection, stack.store, "prod")
        assert [one.why_not is None for one in releases] == [True, False]
        require_not_undone(connection, memory.first)
        with pytest.raises(ApgmsError) as error:
            require_not_undone(connection, memory.second)
    assert error.value.reason == "release.undone"


def test_release_info_tells_good_targets_from_others(stack: Stack, memory: Memory) -> None:
    options = {
        "stack": "prod",
        "database_url": stack.database_url,
        "object_store": stack.store.url,
    }
    before = rollbacks.everything(stack)
    info = run_module("release_info", options)
    assert not info["changed"]
    assert info["good_targets"] == [memory.first, memory.second]
    assert info["releases"][0]["approved_by"] == ["approver", "auditor"]
    assert rollbacks.everything(stack) == before
    rollbacks.roll_back(stack, memory.first)
    info = run_module("release_info", options)
    assert info["good_targets"] == [memory.first]
    assert "rolled back itself" in info["releases"][1]["why_not"]
    claims = second_claims(stack, memory)
    assert [one["amount_cents"] for one in info["obligations"]] == [str(row[3]) for row in claims]


def test_two_at_once_mirror_each_row_once(stack: Stack, memory: Memory) -> None:
    digest = planned_digest(stack, memory.first)
    outcomes: list[str] = []

    def run() -> None:
        try:
            done = rollbacks.carry_out(stack, memory.first, digest)
            outcomes.append("changed" if done.changed else "unchanged")
        except ApgmsError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("changed") == 1
    assert set(outcomes) <= {"changed", "unchanged", "lease.busy"}
    assert_rolled_back(stack, memory)


class Killed(BaseException):
    """The process died here."""


class Dying(Steps):
    """Dies at the nth point between steps, or at the first one of a name."""

    def __init__(self, number: int | None = None, point: str | None = None) -> None:
        super().__init__()
        self._reached = 0
        self._number = number
        self._point = point

    def reach(self, name: str, side: str) -> None:
        if self._number == self._reached or self._point == f"{side} {name}":
            raise Killed(name)
        self._reached += 1


NEAR_THE_COMMIT = (
    "before rollback.put_plan",
    "after journal.put window.closed",
    "after journal.put rollback.applied",
    "after rollback.apply",
    "after rollback.put_incident",
)


@pytest.mark.parametrize("point", NEAR_THE_COMMIT)
def test_killed_near_the_commit_it_is_all_there_or_not_at_all(
    stack: Stack, memory: Memory, point: str
) -> None:
    digest = planned_digest(stack, memory.first)
    assert die(stack, memory, digest, Dying(point=point))
    assert_finished_by_the_same_command(stack, memory, digest)


@pytest.mark.slow
def test_killed_anywhere_it_is_all_there_or_not_at_all(
    prepared: tuple[Stack, Memory], tmp_path: Path
) -> None:
    source, memory = prepared
    died, number = True, 0
    while died:
        with rollbacks.copied(source, tmp_path / str(number)) as stack:
            digest = planned_digest(stack, memory.first)
            died = die(stack, memory, digest, Dying(number=number))
            assert_finished_by_the_same_command(stack, memory, digest)
        number += 1
    assert number > len(NEAR_THE_COMMIT)


def die(stack: Stack, memory: Memory, digest: str, steps: Dying) -> bool:
    """Carry a rollback out until it dies, as a process does: it gives nothing back."""
    try:
        with stack.connection() as connection:
            ports = rollbacks.ports(stack, connection, steps=steps)
            try:
                rollbacks.use_case.rollback(rollbacks.order(stack, memory.first, digest), ports)
            except Killed:
                connection.close()
                raise
    except Killed:
        return True
    return False


def assert_finished_by_the_same_command(stack: Stack, memory: Memory, digest: str) -> None:
    rolled = rollbacks.rows(stack, "SELECT count(*) FROM apgms_release.rollback")[0][0]
    mirrored = rollbacks.rows(stack, "SELECT count(*) FROM apgms_release.mirror")[0][0]
    assert (rolled, mirrored > 0) in ((0, False), (1, True))
    done = rollbacks.carry_out(stack, memory.first, digest)
    assert done.applied is not None
    assert done.applied.tree_size_after is not None
    assert_rolled_back(stack, memory)
    assert not rollbacks.carry_out(stack, memory.first, digest).changed


def test_rows_that_arrive_before_a_killed_run_is_finished_are_not_counted_to_it(
    stack: Stack, memory: Memory
) -> None:
    digest = planned_digest(stack, memory.first)
    assert die(stack, memory, digest, Dying(point="after rollback.apply"))
    rollbacks.book(stack, OTHER, 17)
    done = rollbacks.carry_out(stack, memory.first, digest)
    assert done.applied is not None
    rows = rollbacks.rows(stack, "SELECT count(*) FROM owa_ledger")[0][0]
    assert done.applied.tree_size_after == rows - 1
    assert rollbacks.check(stack).problems == []


def test_a_plan_that_was_carried_out_does_not_answer_for_another_target(
    stack: Stack, memory: Memory
) -> None:
    done = rollbacks.roll_back(stack, memory.second)
    assert done.plan is not None
    for act in (rollbacks.predict, rollbacks.carry_out):
        with pytest.raises(ApgmsError, match=memory.second) as error:
            act(stack, memory.first, done.plan.digest)
        assert error.value.reason == "rollback.stale_plan"


def test_a_second_signer_where_the_policy_asks_for_one(
    prepared: tuple[Stack, Memory], tmp_path: Path
) -> None:
    source, memory = prepared
    with rollbacks.copied(source, tmp_path / "prod") as stack:
        demand_second_signer(stack)
        digest = planned_digest(stack, memory.first)
        error = assert_refused(stack, "approval.waiting", memory.first, digest)
        assert digest in str(error)
        with stack.connection() as connection:
            now = stack.clock(connection).now()
        subject = {"manifest_sha256": memory.first, "plan_sha256": digest}
        stack.sign("rollback", "approver", subject, now)
        rollbacks.carry_out(stack, memory.first, digest)
        assert_rolled_back(stack, memory)


def demand_second_signer(stack: Stack) -> None:
    """Bring a policy into force whose quorum for rollbacks is one person."""
    document = json.loads(Path(stack.policy_path).read_bytes())
    document["previous"] = sha256_hex(canonical(document))
    document["version"] += 1
    document["quorums"]["rollback"] = {"signatures": 1, "roles": []}
    write_policy(stack.keys, stack.folder, document)


def test_roll_back_release_again_and_roll_back_further(stack: Stack, memory: Memory) -> None:
    rollbacks.roll_back(stack, memory.second)
    assert rollbacks.rows(stack, "SELECT count(*) FROM apgms_release.obligation") == [(0,)]
    reopen(stack)
    with stack.connection() as connection:
        stack.load(connection, 3, seed=4)
    third = stack.bundle("third")
    stack.release(third)
    done = rollbacks.roll_back(stack, memory.first)
    assert done.plan is not None
    assert done.plan.undone == (memory.second, third.checksum)
    assert rollbacks.balances(stack) == memory.balances
    assert rollbacks.check(stack).problems == []
    owed = rollbacks.rows(stack, "SELECT DISTINCT manifest_sha256 FROM apgms_release.obligation")
    assert {row[0] for row in owed} == {memory.second, third.checksum}


def reopen(stack: Stack) -> None:
    """End every closure of the window, as a verified dry run does."""
    rollbacks.execute(
        stack,
        "INSERT INTO apgms_release.window_reopening"
        " (incident_id, manifest_sha256, purpose, source_revision)"
        " SELECT incident_id, repeat('0', 64), 'prototype', 'later'"
        " FROM apgms_release.window_closure ON CONFLICT DO NOTHING",
    )


CONSTRAINTS = (
    "ALTER TABLE owa_ledger ADD rpt_verified boolean NOT NULL DEFAULT false, ADD release_uuid uuid,"
    " ADD CONSTRAINT deposits_only"
    " CHECK (amount_cents >= 0 OR (rpt_verified AND release_uuid IS NOT NULL))",
    "CREATE UNIQUE INDEX one_payout ON owa_ledger (abn, tax_type, period_id)"
    " WHERE amount_cents < 0",
)


@pytest.fixture
def strict(database_url: str, gateway: GatewayProcess, tmp_path: Path) -> tuple[Stack, str]:
    """A stack that allows payouts as the only negative rows, one a period, after two releases."""
    for statement in CONSTRAINTS:
        with psycopg.connect(database_url) as connection:
            connection.execute(statement)
    stack = Stack(tmp_path / "strict", database_url, gateway).prepare(seed=11)
    first = stack.bundle("strict-first")
    stack.release(first)
    with stack.connection() as connection:
        stack.load(connection, 3, seed=12)
    stack.release(stack.bundle("strict-second"))
    return stack, first.checksum


def test_a_strict_deployment_is_rolled_back_within_its_constraints(
    strict: tuple[Stack, str],
) -> None:
    stack, first = strict
    rollbacks.book(stack, OTHER, -30, rpt_verified=True, release_uuid=str(uuid.uuid4()))
    done = rollbacks.roll_back(stack, first)
    assert done.plan is not None
    assert done.plan.net
    assert [(chain[:3], chain.entries) for chain in done.plan.chains] == [(OTHER, 1)]
    assert rollbacks.balances(stack) == {}
    assert rollbacks.rows(
        stack, "SELECT amount_cents, rpt_verified FROM owa_ledger ORDER BY id DESC LIMIT 1"
    ) == [(30, False)]
    assert rollbacks.check(stack).problems == []


@pytest.mark.parametrize(
    ("chain", "constraint"), [("released", "one_payout"), ("open", "deposits_only")]
)
def test_an_unreachable_target_says_so_and_touches_nothing(
    strict: tuple[Stack, str], chain: str, constraint: str
) -> None:
    stack, first = strict
    released = rollbacks.rows(stack, "SELECT abn, tax_type, period_id FROM periods LIMIT 1")[0]
    if constraint == "one_payout":
        rollbacks.execute(stack, "ALTER TABLE owa_ledger DROP CONSTRAINT deposits_only")
    rollbacks.book(stack, released if chain == "released" else OTHER, 40)
    before = rollbacks.everything(stack)
    with pytest.raises(ApgmsError, match=constraint) as error:
        rollbacks.predict(stack, first)
    assert error.value.reason == "rollback.unreachable"
    assert rollbacks.everything(stack) == before


TRIGGERS = {
    "rollback.rows_altered": ("owa_ledger", "INSERT", "NEW.hash_after := md5(''); RETURN NEW;"),
    "rollback.states_altered": ("periods", "UPDATE", "NEW.state := OLD.state; RETURN NEW;"),
    "rollback.unreachable": ("periods", "UPDATE", "RAISE EXCEPTION 'no way back';"),
}


@pytest.mark.parametrize("reason", TRIGGERS)
def test_a_trigger_that_is_in_the_way_is_found_before_anything_is_done(
    stack: Stack, memory: Memory, reason: str
) -> None:
    table, event, body = TRIGGERS[reason]
    add_trigger(stack, body, f"CREATE TRIGGER own BEFORE {event} ON {table}")
    assert_no_plan(stack, memory, reason)


def test_what_is_checked_at_the_commit_is_predicted(stack: Stack, memory: Memory) -> None:
    add_trigger(
        stack,
        "RAISE EXCEPTION 'not this row';",
        "CREATE CONSTRAINT TRIGGER own AFTER INSERT ON owa_ledger DEFERRABLE INITIALLY DEFERRED",
    )
    assert_no_plan(stack, memory, "rollback.unreachable")


def test_a_column_that_nothing_fills_is_named(stack: Stack, memory: Memory) -> None:
    rollbacks.execute(stack, "ALTER TABLE owa_ledger ADD branch text NOT NULL DEFAULT 'main'")
    rollbacks.execute(stack, "ALTER TABLE owa_ledger ALTER branch DROP DEFAULT")
    error = assert_no_plan(stack, memory, "rollback.unreachable")
    assert "owa_ledger, branch" in str(error)


def add_trigger(stack: Stack, body: str, trigger: str) -> None:
    rollbacks.execute(
        stack,
        f"CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
    )
    rollbacks.execute(stack, f"{trigger} FOR EACH ROW EXECUTE FUNCTION own()")


def assert_no_plan(stack: Stack, memory: Memory, reason: str) -> ApgmsError:
    before = rollbacks.everything(stack)
    with pytest.raises(ApgmsError) as error:
        rollbacks.predict(stack, memory.first)
    assert error.value.reason == reason
    assert rollbacks.everything(stack) == before
    return error.value


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_match_a_model(
    database_url: str, gateway: GatewayProcess, tmp_path: Path, seed: int
) -> None:
    """Deposits, releases and rollbacks, some of them killed; the model is what was remembered."""
    choose = random.Random(seed)
    stack = Stack(tmp_path / "prod", database_url, gateway).prepare(seed=1000 * seed + 21)
    remembered: list[Memory] = []
    owed: set[str] = set()
    for number in range(12):
        what = choose.choice(["release", "release", "deposit", "roll back", "killed"])
        if what == "deposit":
            chain = choose.choice([OTHER, *rollbacks.periods(stack)])
            rollbacks.book(stack, chain, choose.randint(1, 900))
        elif what == "release":
            reopen(stack)
            with stack.connection() as connection:
                stack.load(connection, 3, seed=1000 * seed + 100 + number)
            remembered.append(remember(stack, f"random-{seed}-{number}"))
        elif remembered:
            place = choose.randrange(len(remembered))
            target = remembered[place]
            if what == "killed":
                die(stack, target, planned_digest(stack, target.first), Dying(choose.randrange(25)))
            rollbacks.roll_back(stack, target.first)
            owed |= {one.first for one in remembered[place + 1 :]}
            del remembered[place + 1 :]
            assert rollbacks.balances(stack) == target.balances
            states = rollbacks.periods(stack)
            assert {key: states[key] for key in target.periods} == target.periods
            tokens = rollbacks.tokens(stack)
            assert {key: tokens[key] for key in target.tokens} == target.tokens
            later = {status for key, status in tokens.items() if key not in target.tokens}
            assert later <= {"consumed", "REVOKED"}
        listed = rollbacks.rows(stack, "SELECT manifest_sha256 FROM apgms_release.obligation")
        assert {row[0] for row in listed} == owed
    assert rollbacks.check(stack).problems == []


def remember(stack: Stack, submission_id: str) -> Memory:
    """Release what is ready; return what the stack is then."""
    manifest = stack.bundle(submission_id)
    stack.release(manifest)
    return Memory(
        manifest.checksum,
        "",
        rollbacks.balances(stack),
        rollbacks.periods(stack),
        rollbacks.tokens(stack),
    )


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_all_or_nothing(
    prepared: tuple[Stack, Memory], tmp_path: Path
) -> None:
    source, memory = prepared
    for number in range(8):
        with rollbacks.copied(source, tmp_path / str(number)) as stack:
            digest = planned_digest(stack, memory.first)
            options = module_options(stack, memory.first, plan_sha256=digest)
            kill_module("rollback", options, after=0.3 + 0.2 * number)
            assert_finished_by_the_same_command(stack, memory, digest)


def kill_module(name: str, options: dict[str, Any], after: float) -> None:
    """Run a module in a process of its own and kill it, if it still runs ``after`` seconds."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{PACKAGE}.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": options}).encode())
        process.stdin.close()
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
