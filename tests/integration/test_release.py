"""Releases against a real database and a real gateway: what they check and what they leave."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.attestation import (
    VERDICT,
    attest,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import rehearsal
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import HttpGateway
from ansible_collections.apgms.release.plugins.module_utils.ports.http import HttpClient
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts import progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.lease import current
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import release
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack import (
    kill_switch,
    windows,
)
from services.keys import write_policy
from tests.faults.actor import Actor
from tests.faults.backup import Backup
from tests.faults.clock import VirtualClock
from tests.faults.invariants import require_accepted_once, require_never_twice
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess

_seeds = itertools.count(20_000)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def prepared(
    module_database_url: str, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    folder = tmp_path_factory.mktemp("prepared") / "prod"
    return Stack(folder, module_database_url, gateway).prepare(entities=0, virtual=True)


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Iterator[Stack]:
    yield prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    prepared.gateway.plan()
    prepared.gateway.shift_clock(0)


@pytest.fixture
def manifest(stack: Stack) -> Manifest:
    return stack.bundle()


def refusal(stack: Stack, manifest: Manifest, **changes: Any) -> ApgmsError:
    with pytest.raises(ApgmsError) as error:
        stack.release(manifest, **changes)
    return error.value


def state(stack: Stack, manifest: Manifest) -> Any:
    return stack.one(
        "SELECT state FROM apgms_release.release WHERE manifest_sha256 = %s", manifest.checksum
    )


def execute(stack: Stack, statement: str, *values: Any) -> None:
    with stack.connection() as connection:
        connection.execute(statement.encode(), values)


def move_clock(stack: Stack, **by: float) -> None:
    with stack.connection() as connection:
        VirtualClock(connection).move(timedelta(**by))


def assert_untouched(stack: Stack) -> None:
    """Nothing of a release is recorded, and the gateway got nothing."""
    for table in ("release", "claim", "receipt", "used_statement", "journal"):
        assert stack.one(f"SELECT count(*) FROM apgms_release.{table}") == 0
    assert list(stack.store.keys("journal/")) == []
    assert stack.taken()["submissions"] == 0


class TestAcknowledged:
    def test_its_long_steps_say_how_far_they_are(
        self, stack: Stack, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
        lines: list[str] = []
        with stack.connection() as connection:
            release.release(stack.order(manifest), stack.ports(connection, say=lines.append))
        begun = [line.partition(":")[0] for line in lines]
        assert {"Intent", "Verifying ledger rows", "Sending", "Recording the receipt"} < {*begun}
        assert begun.count("Working out payouts") == 2  # rehearsed, then recorded

    def test_a_further_run_changes_nothing(self, stack: Stack, manifest: Manifest) -> None:
        first = stack.release(manifest)
        assert (first.before, first.after.state) == (None, "ACKNOWLEDGED")
        again = stack.release(manifest)
        assert again.before == again.after == first.after
        require_accepted_once(stack, manifest)

    def test_each_accepted_period_is_paid_out_released_and_its_token_consumed(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.release(manifest)
        with stack.connection() as connection:
            rows = connection.execute(
                "SELECT l.amount_cents, l.balance_after_cents, l.bank_receipt_hash,"
                " p.final_liability_cents, r.receipt_sha256 FROM owa_ledger l"
                " JOIN periods p USING (abn, tax_type, period_id), apgms_release.release r"
                " WHERE l.amount_cents < 0"
            ).fetchall()
        assert len(rows) == manifest.batch_total
        for amount, balance, receipt_hash, liability, receipt in rows:
            assert (amount, balance) == (-liability, 0)
            assert receipt_hash == f"rcpt:{receipt}"

    def test_the_journal_tells_it_all(self, stack: Stack, manifest: Manifest) -> None:
        stack.release(manifest)
        with stack.connection() as connection:
            journal = Journal(connection, stack.store, "prod", stack.clock(connection))
            events = [row.event for row in journal.rows(manifest.checksum)]
            intent = next(journal.rows(manifest.checksum)).body
        assert events == [
            "release.intent", "release.sending", "release.pending", "release.acknowledged",
        ]  # fmt: skip
        assert intent["idempotency_key"] == f"apgms-{manifest.checksum}"
        kinds = [used["kind"] for used in intent["statements"]]
        assert sorted(kinds) == ["intent", "prototype", "release", "release"]

    def test_the_receipt_is_kept_as_received(self, stack: Stack, manifest: Manifest) -> None:
        receipt = stack.release(manifest).after.receipt_sha256
        kept = f"receipts/{manifest.checksum}/{receipt}.json"
        with stack.store.open(kept) as stored:
            assert stored.read() == stack.one("SELECT document FROM apgms_release.receipt")

    def test_deployments_with_more_columns_get_them_filled(
        self, database_url: str, gateway: GatewayProcess, tmp_path: Path
    ) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "ALTER TABLE owa_ledger ADD rpt_verified boolean, ADD release_uuid uuid,"
                " ADD bank_receipt_id text,"
                " ADD CHECK (amount_cents >= 0 OR (rpt_verified AND release_uuid IS NOT NULL));"
                "CREATE UNIQUE INDEX one_payout ON owa_ledger (abn, tax_type, period_id)"
                " WHERE amount_cents < 0"
            )
        stack = Stack(tmp_path / "prod", database_url, gateway).prepare(seed=next(_seeds))
        manifest = stack.bundle()
        assert stack.release(manifest).after.state == "ACKNOWLEDGED"
        require_accepted_once(stack, manifest)


class TestPartly:
    def test_what_was_rejected_is_listed_and_free_again(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.gateway.plan({"point": "decide", "fault": "reject_rows", "rows": 2})
        assert stack.release(manifest).after.state == "PARTIAL"
        accepted = manifest.batch_total - 2
        assert stack.one("SELECT count(*) FROM periods WHERE state = 'RELEASED'") == accepted
        assert stack.one("SELECT count(*) FROM periods WHERE state = 'READY_RPT'") == 2
        assert stack.one("SELECT count(*) FROM owa_ledger WHERE amount_cents < 0") == accepted
        reasons = "SELECT DISTINCT outcome_reason FROM apgms_release.claim WHERE outcome='rejected'"
        assert stack.one(reasons) == "not_payable: The authority does not accept this row."

    def test_the_residual_goes_out_as_a_manifest_of_its_own(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.gateway.plan({"point": "decide", "fault": "reject_rows", "rows": 2})
        stack.release(manifest)
        residual = stack.bundle("residual")
        assert residual.batch_total == 2
        assert stack.release(residual).after.state == "ACKNOWLEDGED"
        require_never_twice(stack)

    def test_a_verified_rejection_frees_every_claim(self, stack: Stack, manifest: Manifest) -> None:
        stack.gateway.plan({"point": "decide", "fault": "reject_all"})
        assert stack.release(manifest).after.state == "REJECTED"
        assert stack.one("SELECT count(*) FROM owa_ledger WHERE amount_cents < 0") == 0
        again = stack.bundle("corrected")
        assert stack.release(again).after.state == "ACKNOWLEDGED"
        assert stack.release(manifest).after.state == "REJECTED"


class TestRefused:
    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            ("UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 1", "release.rows_changed"),
            ("DELETE FROM rpt_tokens WHERE id = 1", "release.rows_changed"),
            ("UPDATE periods SET state = 'OPEN' WHERE id = 1", "release.rows_changed"),
            ("UPDATE periods SET thresholds = '{}' WHERE id = 1", "release.rows_changed"),
            ("DELETE FROM periods WHERE id = 1", "release.rows_changed"),
        ],
    )
    def test_rows_that_changed_since_the_bundle(
        self, stack: Stack, manifest: Manifest, damage: str, reason: str
    ) -> None:
        execute(stack, damage)
        assert refusal(stack, manifest).reason == reason
        assert_untouched(stack)

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 2",
            "DELETE FROM owa_ledger WHERE id = 2",
        ],
    )
    def test_a_ledger_that_is_not_what_the_checkpoint_says(
        self, stack: Stack, manifest: Manifest, damage: str
    ) -> None:
        execute(stack, damage)
        assert refusal(stack, manifest).reason.startswith("log.")
        assert_untouched(stack)

    def test_an_acceptance_that_the_deployment_could_not_record(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        execute(stack, "ALTER TABLE rpt_tokens ADD CONSTRAINT narrow CHECK (status IN ('ISSUED'))")
        try:
            error = refusal(stack, manifest)
        finally:
            execute(stack, "ALTER TABLE rpt_tokens DROP CONSTRAINT narrow")
        assert error.reason == "release.unrecordable"
        assert "narrow" in str(error)
        assert_untouched(stack)

    def test_an_altered_bundle(self, stack: Stack, manifest: Manifest, tmp_path: Path) -> None:
        name = manifest.batches[0].rpt_name
        path = tmp_path / f"prod/store/releases/{manifest.checksum}/{name}"
        path.write_bytes(path.read_bytes().replace(b'"amount_cents":"', b'"amount_cents":"1', 1))
        assert refusal(stack, manifest).reason == "release.bundle_altered"
        assert_untouched(stack)

    def test_a_manifest_made_by_hand(self, stack: Stack, manifest: Manifest) -> None:
        folder = Path(stack.store.url.removeprefix("file://")) / "releases"
        cheap = tuple(replace(batch, amount_cents=1) for batch in manifest.batches)
        forged = replace(manifest, batches=cheap)
        shutil.copytree(folder / manifest.checksum, folder / forged.checksum)
        (folder / forged.checksum / "manifest.json").write_bytes(forged.to_bytes())
        with stack.connection() as connection:
            stack.approve(forged, stack.clock(connection).now())
        assert refusal(stack, forged).reason == "attestation.other_subject"
        verdict = folder / forged.checksum / "manifest.dsse.json"
        verdict.unlink()
        assert refusal(stack, forged).reason == "bundle.altered"
        signer = open_signer(str(stack.keys.manifest_key), "ecdsa-p256")
        files = {"manifest.json": forged.checksum}
        verdict.write_bytes(attest(files, VERDICT, {}, signer.key_id, signer.sign))
        error = refusal(stack, forged)
        assert error.reason == "release.bundle_altered"
        assert "cents" in str(error)
        assert_untouched(stack)

    def test_no_approval(self, stack: Stack, manifest: Manifest) -> None:
        assert refusal(stack, manifest, statements_dir="/nowhere").reason == "approval.waiting"
        assert_untouched(stack)

    def test_an_approver_is_not_the_operator(self, stack: Stack, manifest: Manifest) -> None:
        error = refusal(stack, manifest, operator="auditor")
        assert error.reason == "approval.unknown_operator"
        assert_untouched(stack)

    def test_the_kill_switch(self, stack: Stack, manifest: Manifest) -> None:
        with stack.connection() as connection:
            kill_switch.turn(connection, "prod", engaged=True, reason="fire", actor="olivia")
        assert refusal(stack, manifest).reason == "kill_switch.on"
        assert_untouched(stack)

    def test_a_closed_window(self, stack: Stack, manifest: Manifest) -> None:
        move_clock(stack, hours=24)
        assert refusal(stack, manifest).reason.startswith("window.")
        assert_untouched(stack)
        move_clock(stack, hours=-24)

    def test_a_manifest_that_is_no_release(self, stack: Stack) -> None:
        rehearsed = stack.bundle("first")
        with stack.connection() as connection:
            ports = stack.ports(connection)
            flags = replace(rehearsed.flags, dry_run=True)
            dry = replace(rehearsed, flags=flags, purpose="rehearsal")
            key = f"releases/{dry.checksum}/manifest.json"
            stack.store.put_new(key, dry.to_bytes())
            with pytest.raises(ApgmsError) as error:
                release.release(stack.order(dry), ports)
        assert error.value.reason == "release.dry_run"
        assert_untouched(stack)

    def test_a_gateway_of_another_environment_or_key(
        self, stack: Stack, manifest: Manifest, tmp_path: Path
    ) -> None:
        folder = tmp_path / "other"
        folder.mkdir()
        other = GatewayProcess(folder, environment="sandbox").start()
        try:
            for pinned, reason in (
                (replace(other.pins, environments=("production",)), "gateway.wrong_environment"),
                (replace(other.pins, keys={}), "gateway.unpinned_key"),
                (stack.gateway.pins, "gateway.unpinned_host"),
            ):
                with stack.connection() as connection:
                    ports = stack.ports(connection)
                    ports = replace(
                        ports,
                        policy=replace(ports.policy, gateway=pinned),
                        gateway=_unchecked(other.url),
                    )
                    with pytest.raises(ApgmsError) as error:
                        release.release(stack.order(manifest), ports)
                assert error.value.reason == reason
            assert other.counters["submissions"] == 0
        finally:
            other.stop()
        assert_untouched(stack)

    def test_a_policy_that_was_superseded_meanwhile(
        self, database_url: str, gateway: GatewayProcess, tmp_path: Path
    ) -> None:
        stack = Stack(tmp_path / "prod", database_url, gateway).prepare(seed=next(_seeds))
        manifest = stack.bundle()
        with stack.connection() as connection:
            ports = stack.ports(connection)
            document = {**ports.policy.document, "version": 2, "previous": ports.policy.digest}
            write_policy(stack.keys, stack.folder, document)
            stack.ports(connection)
            with pytest.raises(ApgmsError) as error:
                release.release(stack.order(manifest), ports)
        assert error.value.reason == "policy.superseded"


class TestUnfinished:
    def test_an_unknown_release_bars_every_other(self, stack: Stack, manifest: Manifest) -> None:
        other = stack.bundle("other")
        stack.gateway.plan(
            {"point": "submit", "fault": "lose_response"},
            {"point": "lookup", "fault": "reset", "times": 1000},
        )
        assert refusal(stack, manifest).reason == "release.not_finished"
        assert state(stack, manifest) == "UNKNOWN"
        error = refusal(stack, other)
        assert error.reason == "release.other_open"
        assert manifest.checksum in str(error)

    def test_after_the_window_it_may_ask_but_not_send(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.gateway.plan({"point": "submit", "fault": "lose_response"})
        actor = Actor(stack, manifest, "operator")
        _run_to(actor, "release.unknown", "before")
        actor.kill()
        move_clock(stack, hours=24)
        assert stack.release(manifest).after.state == "ACKNOWLEDGED"
        move_clock(stack, hours=-24)

    def test_nothing_is_sent_after_the_window(self, stack: Stack, manifest: Manifest) -> None:
        stack.gateway.plan({"point": "submit", "fault": "reset"})
        actor = Actor(stack, manifest, "operator")
        _run_to(actor, "release.unknown", "before")
        actor.kill()
        move_clock(stack, hours=24)
        assert refusal(stack, manifest).reason.startswith("window.")
        assert stack.taken()["submissions"] == 0
        move_clock(stack, hours=-24)
        assert stack.release(manifest).after.state == "ACKNOWLEDGED"

    def test_past_the_key_retention_nothing_is_resent(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.gateway.plan({"point": "submit", "fault": "lose_response"})
        actor = Actor(stack, manifest, "operator")
        _run_to(actor, "release.unknown", "before")
        actor.kill()
        month = timedelta(days=31)
        stack.gateway.shift_clock(month.total_seconds())
        move_clock(stack, seconds=month.total_seconds())
        assert refusal(stack, manifest).reason == "release.key_forgotten"
        assert state(stack, manifest) == "UNKNOWN"
        assert stack.taken()["submissions"] == 1
        move_clock(stack, seconds=-month.total_seconds())

    def test_other_bytes_or_another_endpoint_are_not_sent_under_the_key(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        stack.gateway.plan({"point": "connect", "fault": "refuse", "times": 1000, "skip": 1})
        assert refusal(stack, manifest).reason == "release.not_finished"
        stack.gateway.plan()
        execute(stack, "UPDATE apgms_release.release SET endpoint = 'https://elsewhere'")
        assert refusal(stack, manifest).reason == "release.other_endpoint"
        execute(stack, "UPDATE apgms_release.release SET endpoint = %s", stack.gateway.url)
        execute(stack, "UPDATE apgms_release.release SET body_sha256 = repeat('0', 64)")
        assert refusal(stack, manifest).reason == "release.other_bytes"
        assert stack.taken()["submissions"] == 0

    def test_a_submission_of_this_manifest_by_somebody_else(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        with stack.connection() as connection:
            ports = stack.ports(connection)
            body = release.bundle_body(stack.store, manifest)
            assert isinstance(ports.gateway, HttpGateway)
            ports.gateway.submit("somebody-elses-key", body)
        assert refusal(stack, manifest).reason == "release.foreign_submission"
        assert state(stack, manifest) == "UNKNOWN"

    def test_a_restored_database_does_not_forget_a_submission(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        other = stack.bundle("other")
        backup = Backup(stack)
        stack.release(manifest)
        backup.restore()
        assert state(stack, manifest) is None
        assert refusal(stack, other).reason == "release.other_open"
        assert state(stack, manifest) == "UNKNOWN"
        found = stack.release(manifest)
        assert found.after.state == "ACKNOWLEDGED"
        require_accepted_once(stack, manifest)

    def test_a_closed_window_is_not_forgotten_either(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        backup = Backup(stack)
        with stack.connection() as connection, connection.transaction():
            journal = Journal(connection, stack.store, "prod", stack.clock(connection))
            windows.close(connection, journal, "prod", "gone wrong", "INC-1", "0123abcd")
        backup.restore()
        assert refusal(stack, manifest).reason == "window.closed"


class TestLock:
    def test_the_second_is_told_who_since_when_and_on_what(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        first = Actor(stack, manifest, "olivia@laptop")
        _run_to(first, "release.send", "before")
        second = Actor(stack, manifest, "awx").run()
        assert second["reason"] == "lease.busy"
        assert "olivia@laptop" in second["message"]
        assert manifest.checksum in second["message"]
        assert first.run()["state"] == "ACKNOWLEDGED"
        require_accepted_once(stack, manifest)

    def test_a_paused_holder_that_wakes_up_causes_nothing(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        paused = Actor(stack, manifest, "paused")
        _run_to(paused, "release.send", "before")
        os.kill(paused.pid, signal.SIGSTOP)
        move_clock(stack, minutes=10)
        other = Actor(stack, manifest, "other").run()
        assert other["state"] == "ACKNOWLEDGED"
        os.kill(paused.pid, signal.SIGCONT)
        assert paused.run()["reason"] == "lease.lost"
        require_accepted_once(stack, manifest)

    def test_breaking_a_live_lease_takes_a_signed_statement(
        self, stack: Stack, manifest: Manifest
    ) -> None:
        hanging = Actor(stack, manifest, "hanging")
        _run_to(hanging, "release.send", "before")
        with stack.connection() as connection:
            held = current(connection, "prod")
            now = stack.clock(connection).now()
        assert held is not None
        token = held["token"]
        error = refusal(stack, manifest, break_token=token)
        assert error.reason == "approval.waiting"
        stack.sign("lock_break", "auditor", {"lease_token": str(token)}, now)
        assert stack.release(manifest, break_token=token).after.state == "ACKNOWLEDGED"
        assert hanging.run()["reason"] == "lease.lost"
        require_accepted_once(stack, manifest)
        events = [row.event for row in _journal(stack)]
        assert "lease.broken" in events


class TestCheckMode:
    def predict(self, stack: Stack, manifest: Manifest) -> release.Released:
        with stack.connection() as connection, rehearsal(connection):
            ports = stack.ports(connection)
            ports = replace(
                ports, store=OverlayStore(stack.store), gateway=_unchecked(stack.gateway.url)
            )
            return release.predict(stack.order(manifest), ports)

    def test_it_predicts_and_touches_nothing(self, stack: Stack, manifest: Manifest) -> None:
        predicted = self.predict(stack, manifest)
        assert_untouched(stack)
        done = stack.release(manifest)
        assert (predicted.before, predicted.after.state) == (done.before, done.after.state)
        assert self.predict(stack, manifest).before == done.after

    def test_it_refuses_what_the_real_run_refuses(self, stack: Stack, manifest: Manifest) -> None:
        execute(stack, "UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 1")
        with pytest.raises(ApgmsError) as error:
            self.predict(stack, manifest)
        assert error.value.reason == refusal(stack, manifest).reason


def test_nothing_is_committed_put_or_sent_outside_a_step(
    stack: Stack, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    bypassed: list[str] = []

    def watch(owner: type, name: str, what: str) -> None:
        real = getattr(owner, name)

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            if steps.running is None:
                bypassed.append(f"{what}: {arguments[:1]}")
            return real(self, *arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    with stack.connection() as connection:
        ports = stack.ports(connection, steps=steps)
        watch(psycopg.Connection, "transaction", "commit")
        watch(FolderStore, "put_new", "put")
        watch(HttpGateway, "submit", "send")
        real_execute = psycopg.Connection.execute

        def execute(self: Any, query: Any, *more: Any, **options: Any) -> Any:
            text = query if isinstance(query, str) else str(query)
            writes = not text.lstrip(" b'\"\n").upper().startswith(("SELECT", "WITH"))
            if writes and steps.running is None:
                bypassed.append(f"statement: {text[:60]}")
            return real_execute(self, query, *more, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", execute)
        assert release.release(stack.order(manifest), ports).after.state == "ACKNOWLEDGED"
    monkeypatch.undo()
    assert bypassed == []


def _run_to(actor: Actor, name: str, side: str) -> None:
    while actor.wait() and not actor.ended:
        assert actor.at is not None
        if (actor.at.name, actor.at.side) == (name, side):
            return
        actor.order()
    pytest.fail(f"it never came to {side} {name}: {actor.result}")


def _journal(stack: Stack) -> list[Any]:
    with stack.connection() as connection:
        return list(Journal(connection, stack.store, "prod", stack.clock(connection)).rows())


def _unchecked(url: str) -> HttpGateway:
    return HttpGateway(url, HttpClient(url), None, SystemClock())
