# GNU General Public License v3.0+ (see COPYING)
"""Rehearsals on a prod stack with a running gateway: permitted, single, and without any effect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Flags,
    Manifest,
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack import reopening
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.windows import (
    close,
    open_closures,
)
from ansible_collections.apgms.release.plugins.module_utils.version import VERSION
from tests.faults.stack import REVISION, Stack
from tests.gateway_process import GatewayProcess

CORRECTED = "4567cdef"
OWN_EVIDENCE = {
    "apgms_release.bundle",
    "apgms_release.used_statement",
    "apgms_release.ledger_checkpoint",
    "apgms_release.ledger_extent",
}
"""The tables that a rehearsal adds to: its manifest, its permit, the snapshot of its manifest."""

_seeds = itertools.count(2)


@pytest.fixture(scope="module")
def prepared(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("gateway")
    gateway = GatewayProcess(folder).start()
    yield Stack(folder / "prod", module_database_url, gateway).prepare()
    gateway.stop()


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Stack:
    return prepared.renewed(tmp_path / "prod", seed=next(_seeds))


def permit(stack: Stack, name: str = "rehearsal-1", **changes: Any) -> None:
    """Have the rehearsal of this submission id permitted by the auditor."""
    subject = {
        "submission_id": name,
        "source_revision": CORRECTED,
        "collection_version": VERSION,
    }
    signer = changes.pop("signer", "auditor")
    with stack.connection() as connection:
        now = DatabaseClock(connection).now() + changes.pop("after", timedelta())
    stack.sign("rehearsal", signer, subject | changes, now)


def rehearse(stack: Stack, name: str | None = "rehearsal-1", **changes: Any) -> Manifest:
    """Rehearse; even with release approvals for the manifest it stays a rehearsal."""
    members: dict[str, Any] = {
        "purpose": "rehearsal",
        "flags": Flags(seed=False, smoke=False, dry_run=True),
        "source_revision": CORRECTED,
        "statements_dir": str(stack.statements),
        "operator": "operator",
    }
    return stack.bundle(**{"submission_id": name, **members, **changes})


def refusal(stack: Stack, *args: Any, **kwargs: Any) -> ApgmsError:
    """Return why a rehearsal is refused, having checked that nothing at all was written."""
    before = contents(stack)
    with pytest.raises(ApgmsError) as caught:
        rehearse(stack, *args, **kwargs)
    assert contents(stack) == before
    return caught.value


def contents(stack: Stack) -> dict[str, Any]:
    """Every table with its rows, and every object's name."""
    found: dict[str, Any] = {"store": list(stack.store.keys(""))}
    with stack.connection() as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            query = f'SELECT t::text FROM "{schema}"."{table}" t ORDER BY 1'
            found[f"{schema}.{table}"] = connection.execute(query.encode()).fetchall()
    return found


def test_it_writes_its_own_evidence_and_sends_nothing(stack: Stack) -> None:
    permit(stack)
    before = contents(stack)
    manifest = rehearse(stack)
    after = contents(stack)
    written = {name for name in after if after[name] != before[name]}
    assert written == {"store", *OWN_EVIDENCE}
    assert set(stack.taken().values()) == {0}
    assert (manifest.purpose, manifest.flags.dry_run) == ("rehearsal", True)
    assert manifest.batch_total == 6
    added = set(after["store"]) - set(before["store"])
    assert {name.split("/")[0] for name in added} == {"releases", "log"}


def test_it_is_refused_without_a_permit(stack: Stack) -> None:
    error = refusal(stack)
    assert error.reason == "approval.waiting"
    assert "approve_kind=rehearsal" in str(error)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"submission_id": "rehearsal-2"}, "names submission_id rehearsal-2"),
        ({"source_revision": REVISION}, f"names source_revision {REVISION}"),
        ({"collection_version": "0.0.9"}, "names collection_version 0.0.9"),
        ({"after": timedelta(hours=-5)}, "expired"),
        ({"after": timedelta(hours=2)}, "valid from"),
    ],
)
def test_a_permit_for_something_else_does_not_count(
    stack: Stack, changes: dict[str, Any], words: str
) -> None:
    permit(stack, **changes)
    assert words in str(refusal(stack))


def test_nobody_permits_himself(stack: Stack) -> None:
    permit(stack)
    assert refusal(stack, operator="nobody").reason == "approval.unknown_operator"
    assert "one person" in str(refusal(stack, operator="auditor"))


def test_one_permit_is_for_one_rehearsal(stack: Stack) -> None:
    permit(stack)
    manifest = rehearse(stack)
    assert rehearse(stack) == manifest  # the same one, resumed
    assert refusal(stack, "rehearsal-2").reason == "approval.waiting"


def test_it_needs_a_name_of_its_own(stack: Stack) -> None:
    assert refusal(stack, None).reason == "bundle.unnamed"


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": Flags(seed=False, smoke=False, dry_run=False)},
        {"flags": Flags(seed=True, smoke=False, dry_run=True)},
        {"flags": Flags(seed=False, smoke=True, dry_run=True)},
        {"purpose": "release"},
        {"purpose": "prototype"},
    ],
)
def test_flags_that_are_not_a_rehearsal_s_are_refused(
    stack: Stack, changes: dict[str, Any]
) -> None:
    permit(stack)
    assert refusal(stack, **changes).reason == "flags.forbidden"


def test_it_cannot_be_released(stack: Stack) -> None:
    permit(stack)
    manifest = rehearse(stack)
    with pytest.raises(ApgmsError) as caught:
        stack.release(manifest)
    assert caught.value.reason == "release.dry_run"
    assert set(stack.taken().values()) == {0}


class TestReopening:
    """A rehearsal after the rollback opens the window again."""

    def shut(self, stack: Stack) -> None:
        with stack.connection() as connection, connection.transaction():
            journal = Journal(connection, stack.store, "prod", DatabaseClock(connection))
            close(connection, journal, "prod", "wrong rates", "INC-1", REVISION)

    def reopen(self, stack: Stack, checksum: str) -> list[str]:
        order = reopening.Order(
            stack="prod",
            policy_path=stack.policy_path,
            statements_dir=str(stack.statements),
            operator="operator",
            source_revision=CORRECTED,
            rehearsal=checksum,
        )
        with stack.connection() as connection:
            reopening.carry_out(connection, stack.store, order)
            return [closure.incident_id for closure in open_closures(connection, "prod")]

    def refused(self, stack: Stack, checksum: str) -> str:
        with pytest.raises(ApgmsError) as caught:
            self.reopen(stack, checksum)
        return caught.value.reason

    def test_a_sanctioned_one_opens_it(self, stack: Stack) -> None:
        self.shut(stack)
        permit(stack)
        assert self.reopen(stack, rehearse(stack).checksum) == []

    def test_one_from_before_does_not(self, stack: Stack) -> None:
        permit(stack)
        manifest = rehearse(stack)
        self.shut(stack)
        assert self.refused(stack, manifest.checksum) == "window.not_corrective"

    def test_a_release_is_no_rehearsal(self, stack: Stack) -> None:
        self.shut(stack)
        manifest = stack.bundle()
        assert self.refused(stack, manifest.checksum) == "window.no_rehearsal"

    def test_one_that_used_no_permit_is_none(self, stack: Stack) -> None:
        self.shut(stack)
        permit(stack)
        manifest = rehearse(stack)
        with stack.connection() as connection:
            connection.execute("ALTER TABLE apgms_release.used_statement DISABLE TRIGGER ALL")
            connection.execute("DELETE FROM apgms_release.used_statement")
        assert self.refused(stack, manifest.checksum) == "window.no_rehearsal"

    def test_an_altered_bundle_is_none(self, stack: Stack) -> None:
        self.shut(stack)
        permit(stack)
        manifest = rehearse(stack)
        path = stack.folder / "store" / object_key(manifest.checksum, "image.jsonl")
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"READY_RPT", b"BLOCKED_X"))
        assert self.refused(stack, manifest.checksum) == "bundle.altered"

    def test_an_unknown_one_is_none(self, stack: Stack) -> None:
        self.shut(stack)
        assert self.refused(stack, "ab" * 32) == "manifest.unknown"
