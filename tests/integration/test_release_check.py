# GNU General Public License v3.0+ (see COPYING)
"""Post-release validation and evidence of a release that was really sent and acknowledged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Manifest,
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.check import (
    Ports,
    ReleaseVerdict,
    check_release,
)
from tests.conftest import ROOT, fresh_database
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess
from tests.module_process import run_module

Connection = psycopg.Connection[tuple[Any, ...]]
SCRIPT = ROOT / "roles" / "evidence" / "files" / "verify.sh"


@pytest.fixture(scope="module")
def stack(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("release")
    (folder / "gateway").mkdir()
    gateway = GatewayProcess(folder / "gateway").start()
    try:
        with fresh_database(postgres_url) as url:
            yield Stack(folder / "prod", url, gateway).prepare()
    finally:
        gateway.stop()


@pytest.fixture(scope="module")
def manifest(stack: Stack) -> Manifest:
    """A release that was acknowledged."""
    manifest = stack.bundle()
    assert stack.release(manifest).after.state == "ACKNOWLEDGED"
    return manifest


@pytest.fixture
def connection(stack: Stack, manifest: Manifest) -> Iterator[Connection]:
    """What a test damages is put back after it."""
    with connect(stack.database_url, None, purpose="test") as connection, rehearsal(connection):
        yield connection


def validate(stack: Stack, connection: Connection, checksum: str | None = None) -> ReleaseVerdict:
    policy = load_policy(connection, stack.policy_path, "prod")
    ports = Ports(connection, stack.store, policy, DatabaseClock(connection))
    return check_release(ports, "prod", checksum)


def broken(verdict: ReleaseVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.holds}


def test_a_good_release_holds_and_is_found_without_its_name(
    stack: Stack, connection: Connection, manifest: Manifest
) -> None:
    verdict = validate(stack, connection)
    assert verdict.failure is None
    assert verdict.manifest_sha256 == manifest.checksum
    assert verdict.state == "ACKNOWLEDGED"
    assert [check.name for check in verdict.checks] == [
        "bundle", "state", "nothing open", "receipt", "periods and tokens", "payouts",
        "ledger log", "hash chain", "journal",
    ]  # fmt: skip
    assert (verdict.residual_count, verdict.residual_cents) == (0, 0)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE periods SET state = 'READY_RPT' WHERE id = 1", {"periods and tokens"}),
        ("UPDATE rpt_tokens SET status = 'ISSUED' WHERE id = 1", {"periods and tokens"}),
        ("DELETE FROM rpt_tokens WHERE id = 1", {"periods and tokens"}),
        ("DELETE FROM owa_ledger WHERE amount_cents < 0", {"payouts"}),
        (
            "UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 1",
            {"ledger log", "hash chain"},
        ),
        (
            "UPDATE owa_ledger SET created_at = created_at + interval '1s' WHERE id = 1",
            {"ledger log"},
        ),
        (
            "UPDATE owa_ledger SET prev_hash = repeat('0', 64) WHERE amount_cents < 0",
            {"hash chain"},
        ),
        (
            "UPDATE apgms_release.claim SET outcome = 'rejected' WHERE rpt_id = 1",
            {"receipt"},
        ),
        (
            "UPDATE apgms_release.receipt SET document = document || '\\x20'::bytea",
            {"receipt"},
        ),
        (
            "UPDATE apgms_release.release SET state = 'UNKNOWN'",
            {"state", "nothing open"},
        ),
        (
            "UPDATE apgms_release.bundle SET manifest_sha256 = repeat('0', 64)",
            {"bundle"},
        ),
    ],
)
def test_what_is_off_is_named(
    stack: Stack, connection: Connection, damage: str, expected: set[str]
) -> None:
    for table in ("claim", "receipt", "release", "bundle"):
        connection.execute(f"ALTER TABLE apgms_release.{table} DISABLE TRIGGER USER".encode())
    assert connection.execute(damage.encode()).rowcount > 0
    verdict = validate(stack, connection)
    assert broken(verdict) == expected
    assert verdict.failure is not None
    for name in expected:
        assert f"{name}: " in verdict.failure


def test_a_broken_journal_is_named(stack: Stack, connection: Connection) -> None:
    connection.execute("ALTER TABLE apgms_release.journal DISABLE TRIGGER USER")
    connection.execute("UPDATE apgms_release.journal SET event = 'release.other' WHERE seq = 1")
    assert broken(validate(stack, connection)) == {"journal"}


def test_an_altered_bundle_is_named(
    stack: Stack, connection: Connection, manifest: Manifest
) -> None:
    file = stack.folder / "store" / object_key(manifest.checksum, "image.jsonl")
    data = file.read_bytes()
    file.write_bytes(data + b"\n")
    try:
        assert broken(validate(stack, connection)) == {"bundle"}
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("checksum", ["0" * 64, None])
def test_without_a_release_there_is_nothing_to_validate(
    stack: Stack, connection: Connection, checksum: str | None
) -> None:
    if checksum is None:
        connection.execute(
            "TRUNCATE apgms_release.release, apgms_release.claim, apgms_release.receipt CASCADE"
        )
    with pytest.raises(ApgmsError) as caught:
        validate(stack, connection, checksum)
    assert caught.value.reason == "release_check.nothing_sent"


def options(stack: Stack, **others: Any) -> dict[str, Any]:
    return {
        "stack": "prod",
        "database_url": stack.database_url,
        "object_store": stack.store.url,
        "policy": stack.policy_path,
        **others,
    }


def test_the_module_says_the_same(stack: Stack, manifest: Manifest) -> None:
    for check in (False, True):
        result = run_module("release_check", options(stack), check=check)
        assert (result["changed"], result["manifest_sha256"]) == (False, manifest.checksum)
        assert all(one["holds"] for one in result["checks"])
        assert result["residual"] == {"count": 0, "amount_cents": "0"}


def packaged(stack: Stack, checksum: str, check: bool = False) -> dict[str, Any]:
    return run_module(
        "evidence_archive",
        options(
            stack,
            manifest_sha256=checksum,
            evidence_dir=str(stack.folder / "evidence"),
            manifest_key=str(stack.keys.manifest_key),
            verify_script=str(SCRIPT),
        ),
        check=check,
    )


def test_the_evidence_holds_approvals_receipt_and_journal(
    stack: Stack, manifest: Manifest, tmp_path: Path
) -> None:
    predicted = packaged(stack, manifest.checksum, check=True)
    assert not (stack.folder / "evidence").exists()
    packed = packaged(stack, manifest.checksum)
    assert packed["changed"] and predicted["changed"]
    assert packed["diff"] == predicted["diff"]
    assert (packed["number"], packed["state"]) == (1, "ACKNOWLEDGED")
    again = packaged(stack, manifest.checksum)
    assert (again["changed"], again["archive"]) == (False, packed["archive"])
    subprocess.run(["tar", "-xf", packed["archive"], "-C", str(tmp_path)], check=True)
    (folder,) = tmp_path.iterdir()
    kinds = {path.name.partition("-")[0] for path in (folder / "approvals").glob("*.json")}
    assert kinds >= {"prototype", "release"}
    assert (folder / "receipt.json").exists()
    done = subprocess.run(
        ["sh", SCRIPT, "--policy", packed["policy_sha256"], folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "release, state ACKNOWLEDGED, archive 1;" in done.stdout


def test_a_release_is_not_sealed_before_the_authority_has_answered(
    stack: Stack, manifest: Manifest
) -> None:
    with connect(stack.database_url, None, purpose="test") as connection:
        stack.load(connection, entities=3, seed=2)
    unsent = stack.bundle("second")
    result = packaged(stack, unsent.checksum)
    assert (result["failed"], result["reason"]) == (True, "evidence.not_sealed")
