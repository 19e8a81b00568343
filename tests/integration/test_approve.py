# GNU General Public License v3.0+ (see COPYING)
"""Approving: the auditors' checks, the yes, the signature, and the inventory entry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import Policy
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Flags,
    Manifest,
    Previous,
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approve import (
    Approval,
    Matter,
    Order,
    approve,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.examination import (
    examine,
)
from services.keys import Keys, make_keys, policy_document
from tests.approvals import NOW, Desk, run_of
from tests.bundles import put_bundle, rebatched, rpt_row, store_in
from tests.conftest import ROOT

DRY = Flags(seed=False, smoke=False, dry_run=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"), "prod")


@pytest.fixture
def desk(keys: Keys, tmp_path: Path) -> Desk:
    return Desk(keys, tmp_path)


@pytest.fixture
def policy(desk: Desk) -> Policy:
    return desk.policy()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return store_in(tmp_path)


@pytest.fixture
def manifest(store: FolderStore, keys: Keys) -> Manifest:
    return put_bundle(store, keys)


@pytest.fixture
def sign(store: FolderStore, policy: Policy, desk: Desk) -> Callable[..., Approval]:
    """Approve as the auditor; keywords change the order."""

    def sign(matter: Matter, predict: bool = False, **changes: Any) -> Approval:
        order = {
            "signer": "auditor",
            "key": str(desk.keys.person("auditor")),
            "confirm": matter.manifest or matter.kind,
            "statements": desk.statements,
            **changes,
        }
        return approve(store, policy, Order(matter, **order), NOW, "ab" * 16, predict=predict)

    return sign


def refusal(act: Callable[..., Any], *args: Any, **kwargs: Any) -> ApgmsError:
    with pytest.raises(ApgmsError) as error:
        act(*args, **kwargs)
    return error.value


def failed(store: FolderStore, policy: Policy, manifest: Manifest) -> list[str]:
    return [check.name for check in examine(store, policy, manifest.checksum).failed]


class TestExamination:
    """The checks of the auditors' runbook, each seen to fail."""

    def test_sound_bundle_passes_every_check(
        self, store: FolderStore, policy: Policy, manifest: Manifest
    ) -> None:
        examination = examine(store, policy, manifest.checksum)
        assert examination.failed == []
        text = "\n".join(examination.lines())
        assert "note  Amount: 6 RPT rows, $60.06: one approver is enough" in text
        assert "GST 2025-09: 3 RPT rows, $30.03" in text
        assert "PAYGW 2025-09 recomputed: scale 2" in text
        assert "GST 2025-09 recomputed: 0.1" in text
        assert "Rates cover the periods: 2025-09 in 2024-07-01 to 2026-06-30" in text

    def test_changed_file_ends_it(
        self, store: FolderStore, policy: Policy, manifest: Manifest, tmp_path: Path
    ) -> None:
        rows = tmp_path / "object-store" / "releases" / manifest.checksum / "rpts"
        path = rows / "GST-2025-09.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"1000"', b'"9000"'))
        assert refusal(examine, store, policy, manifest.checksum).reason == "bundle.altered"

    def test_wrong_count(self, store: FolderStore, policy: Policy, keys: Keys) -> None:
        sound = put_bundle(store_in(Path(f"{store.url[7:]}-other")), keys)
        manifest = put_bundle(store, keys, batches=rebatched(sound, count=4))
        assert failed(store, policy, manifest)[0] == "GST 2025-09"

    def test_wrong_amount(self, store: FolderStore, policy: Policy, keys: Keys) -> None:
        sound = put_bundle(store_in(Path(f"{store.url[7:]}-other")), keys)
        manifest = put_bundle(store, keys, batches=rebatched(sound, amount_cents=1))
        assert failed(store, policy, manifest) == ["GST 2025-09"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"amount_cents": "99"},
            {"abn": "12345678901"},
            {"payload_sha256": "ab" * 32},
            {"signature": "A" * 86 + "=="},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_row_that_is_not_what_was_signed(
        self, store: FolderStore, policy: Policy, keys: Keys, changes: dict[str, str]
    ) -> None:
        rows = {"GST": [rpt_row(keys, "GST", 1, **changes)], "PAYGW": [rpt_row(keys, "PAYGW", 1)]}
        manifest = put_bundle(store, keys, rows)
        assert failed(store, policy, manifest) == ["GST 2025-09 sample"]

    def test_submission_id_of_another_manifest(
        self, store: FolderStore, policy: Policy, keys: Keys, manifest: Manifest
    ) -> None:
        second = put_bundle(store, keys, source_revision="another")
        assert failed(store, policy, second) == ["Submission id is unique"]

    def test_flags_of_a_dry_run_on_a_release(
        self, store: FolderStore, policy: Policy, keys: Keys
    ) -> None:
        assert failed(store, policy, put_bundle(store, keys, flags=DRY)) == ["Flags"]

    def test_rates_that_do_not_cover_the_period(
        self, store: FolderStore, policy: Policy, keys: Keys
    ) -> None:
        sound = put_bundle(store_in(Path(f"{store.url[7:]}-other")), keys)
        batches = rebatched(sound, period_id="2026-09")
        manifest = put_bundle(store, keys, batches=batches)
        rows = object_key(manifest.checksum, batches[0].rpt_name)
        store.put_new(rows, b"".join(rpt_row(keys, "GST", number) for number in range(3)))
        assert "Rates cover the periods" in failed(store, policy, manifest)

    def test_ledger_smaller_than_the_release_before(
        self, store: FolderStore, policy: Policy, keys: Keys
    ) -> None:
        manifest = put_bundle(store, keys, previous=Previous("ab" * 32, 7))
        assert failed(store, policy, manifest) == ["Ledger rows"]

    def test_bundle_of_the_other_stack(
        self, store: FolderStore, policy: Policy, keys: Keys
    ) -> None:
        manifest = put_bundle(store, keys, stack="proto")
        error = refusal(examine, store, policy, manifest.checksum)
        assert error.reason == "manifest.other_stack"


class TestSigning:
    """What is signed, and what is not."""

    def test_signed_release_verifies_with_the_stock_tool(
        self, sign: Callable[..., Approval], manifest: Manifest, policy: Policy, tmp_path: Path
    ) -> None:
        approval = sign(Matter(manifest.checksum))
        assert approval.path is not None
        signers = tmp_path / "allowed_signers"
        signers.write_text("\n".join(policy.document["allowed_signers"]) + "\n")
        done = subprocess.run(
            ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "auditor",
             "-n", "apgms-approval-prod", "-s", f"{approval.path}.sig"],
            input=Path(approval.path).read_bytes(), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def test_second_time_changes_nothing(
        self, sign: Callable[..., Approval], manifest: Manifest
    ) -> None:
        first = sign(Matter(manifest.checksum))
        second = sign(Matter(manifest.checksum), confirm=None)
        assert (first.new, second.new) == (True, False)
        assert second.path == first.path
        assert second.difference[0] == second.difference[1]

    @pytest.mark.parametrize("confirm", [None, "", "yes", "ab" * 32])
    def test_without_the_right_yes_nothing_is_signed(
        self, sign: Callable[..., Approval], manifest: Manifest, desk: Desk, confirm: str | None
    ) -> None:
        error = refusal(sign, Matter(manifest.checksum), confirm=confirm)
        assert error.reason == "approve.not_confirmed"
        assert f"approve_confirm={manifest.checksum}" in str(error)
        assert not Path(desk.statements).exists()

    def test_manifest_that_fails_a_check_cannot_be_approved(
        self, sign: Callable[..., Approval], store: FolderStore, keys: Keys
    ) -> None:
        manifest = put_bundle(store, keys, flags=DRY)
        assert refusal(sign, Matter(manifest.checksum)).reason == "approve.check_failed"

    def test_prediction_signs_and_writes_nothing(
        self, sign: Callable[..., Approval], manifest: Manifest, desk: Desk
    ) -> None:
        predicted = sign(Matter(manifest.checksum), predict=True)
        assert not Path(desk.statements).exists()
        done = sign(Matter(manifest.checksum))
        assert (predicted.new, predicted.difference) == (done.new, done.difference)

    def test_operator_cannot_sign_an_approval(
        self, sign: Callable[..., Approval], manifest: Manifest, keys: Keys
    ) -> None:
        error = refusal(
            sign, Matter(manifest.checksum), signer="operator", key=str(keys.person("operator"))
        )
        assert error.reason == "statement.kind_not_allowed"

    def test_key_of_somebody_else(
        self, sign: Callable[..., Approval], manifest: Manifest, keys: Keys
    ) -> None:
        error = refusal(sign, Matter(manifest.checksum), key=str(keys.person("approver")))
        assert error.reason == "signature.foreign_key"

    def test_missing_key_is_named(
        self, sign: Callable[..., Approval], manifest: Manifest, tmp_path: Path
    ) -> None:
        error = refusal(sign, Matter(manifest.checksum), key=str(tmp_path / "none"))
        assert error.reason == "ssh.cannot_sign"
        assert str(tmp_path / "none") in str(error)

    def test_rehearsal_needs_a_permit_and_no_approval(
        self, sign: Callable[..., Approval], store: FolderStore, keys: Keys
    ) -> None:
        manifest = put_bundle(store, keys, purpose="rehearsal", flags=DRY)
        error = refusal(sign, Matter(manifest.checksum))
        assert error.reason == "approve.not_approved_afterwards"

    def test_other_kinds_are_signed_over_their_subject(self, sign: Callable[..., Approval]) -> None:
        subject = {"release_window": "202603020000"}
        approval = sign(Matter(None, "override", subject), reason="the authority asked")
        assert approval.signed is not None
        assert approval.signed.statement.subject == subject

    def test_subject_that_is_not_of_its_kind(self, sign: Callable[..., Approval]) -> None:
        error = refusal(sign, Matter(None, "override", {"lease_token": "1"}), reason="why not")
        assert error.reason == "statement.malformed"

    def test_kind_that_the_manifest_does_not_need(
        self, sign: Callable[..., Approval], manifest: Manifest
    ) -> None:
        assert sign(Matter(manifest.checksum, "release"), predict=True).new
        error = refusal(sign, Matter(manifest.checksum, "prototype"))
        assert error.reason == "approve.other_kind"

    @pytest.mark.parametrize("kind", ["release", "prototype"])
    def test_approval_of_a_run_without_its_manifest(
        self, sign: Callable[..., Approval], manifest: Manifest, kind: str
    ) -> None:
        subject = {"manifest_sha256": manifest.checksum, **run_of(manifest)}
        error = refusal(sign, Matter(None, kind, subject))
        assert error.reason == "approve.nothing_named"

    def test_nothing_named(self, sign: Callable[..., Approval]) -> None:
        assert refusal(sign, Matter(None)).reason == "approve.nothing_named"


def test_prototype_run_is_approved_for_prod(
    keys: Keys, store: FolderStore, desk: Desk, tmp_path: Path
) -> None:
    proto = make_keys(keys.folder, "proto")
    manifest = put_bundle(store, proto, purpose="prototype", flags=DRY, release_window=None)
    policy = Desk(proto, tmp_path).policy()
    order = Order(
        Matter(manifest.checksum),
        "auditor",
        str(proto.person("auditor")),
        manifest.checksum,
        desk.statements,
    )
    approval = approve(store, policy, order, NOW, "ab" * 16)
    assert approval.signed is not None
    statement = approval.signed.statement
    assert (statement.kind, statement.stack) == ("prototype", "proto")
    assert statement.subject["manifest_sha256"] == manifest.checksum


def test_key_in_an_agent_signs(
    sign: Callable[..., Approval],
    manifest: Manifest,
    keys: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert agent.poll() is None
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", keys.person("auditor")], check=True)
        public = tmp_path / "auditor.pub"
        public.write_bytes(keys.person("auditor").with_suffix(".pub").read_bytes())
        assert sign(Matter(manifest.checksum), key=str(public)).new
    finally:
        agent.terminate()
        agent.wait()


def test_key_with_a_passphrase_is_refused_without_a_prompt(
    sign: Callable[..., Approval], manifest: Manifest, tmp_path: Path
) -> None:
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "a secret", "-f", key], check=True)
    error = refusal(sign, Matter(manifest.checksum), key=str(key))
    assert error.reason == "ssh.cannot_sign"
    assert f"ssh-add {key}" in str(error)


def test_policy_lists_who_may_sign_what(keys: Keys) -> None:
    signers = policy_document(keys)["signers"]
    assert "release" not in signers["operator"]["kinds"]


@pytest.mark.parametrize("inventory", ["local", "proto"])
@pytest.mark.parametrize(
    ("kind", "stack"), [(None, "prod"), ("prototype", "prod"), ("restore", "proto")]
)
def test_a_statement_for_proto_is_written_where_it_is_waited_for(
    inventory: str, kind: str | None, stack: str
) -> None:
    done = subprocess.run(
        ["ansible", "-i", f"inventories/{inventory}", "proto", "-m", "ansible.builtin.debug",
         "-a", "var=approve_statements", "-e", json.dumps({"approve_kind": kind} if kind else {})],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{stack}/statements" in done.stdout
