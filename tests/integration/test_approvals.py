# GNU General Public License v3.0+ (see COPYING)
"""Approvals: what lets a release go out, and each reason why a statement does not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import Policy
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import Signed
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Batch,
    Flags,
    Manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approvals import (
    consume,
    require_approvals,
    require_statement,
)
from services.keys import make_keys, make_ssh_key, policy_document, signer_line
from tests.approvals import NOW, Desk, make_manifest, place_no_small_file, run_of

MANIFEST = make_manifest()
LARGE = make_manifest(batches=(Batch("GST", "2025-09", 1, 10_000_000, "ab" * 32, "ab" * 32),))


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def desk(keys_folder: Path, tmp_path: Path) -> Desk:
    return Desk(make_keys(keys_folder, "prod"), tmp_path)


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[Any]:
    with connect(module_database_url, None, purpose="test") as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def ask(connection: Any, desk: Desk) -> Any:
    """Ask for the approvals of a manifest, in a transaction that is rolled back."""

    def ask(
        manifest: Manifest = MANIFEST, policy: Policy | None = None, **changes: Any
    ) -> list[Signed]:
        with connection.transaction(force_rollback=True):
            return require_approvals(
                connection,
                policy or desk.policy(),
                desk.statements,
                manifest,
                **{"operator": "operator", "now": NOW, **changes},
            )

    return ask


def refusals(ask: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Return why the statements at hand do not count; the release must be waiting."""
    with pytest.raises(ApgmsError) as error:
        ask(*args, **kwargs)
    assert error.value.reason == "approval.waiting"
    assert "playbooks/approve.yml" in str(error.value)
    found = error.value.details["refusals"]
    assert all(refusal["why"] in str(error.value) for refusal in found)
    return [refusal["reason"] for refusal in found]


def signers(desk: Desk, **changes: dict[str, Any]) -> dict[str, Any]:
    """Return the policy's signers with changed members of single ones."""
    found = policy_document(desk.keys)["signers"]
    return {name: {**signer, **changes.get(name, {})} for name, signer in found.items()}


def test_approved_release_may_go_out(desk: Desk, ask: Any) -> None:
    desk.approve_prototype(MANIFEST)
    desk.approve_release(MANIFEST)
    assert [signed.statement.kind for signed in ask()] == ["prototype", "release"]


def test_unapproved_release_waits_and_names_the_command(desk: Desk, ask: Any) -> None:
    with pytest.raises(ApgmsError) as error:
        ask(inventory="inventories/site")
    assert error.value.reason == "approval.waiting"
    assert (
        "STACK=prod ansible-playbook -i inventories/site playbooks/approve.yml"
        f" -e approve_manifest={MANIFEST.checksum}" in str(error.value)
    )
    assert "prototype approval: 0 of 1 persons signed" in str(error.value)


def test_release_approval_alone_is_not_enough(desk: Desk, ask: Any) -> None:
    desk.approve_release(MANIFEST)
    assert refusals(ask) == []


def test_prototype_approval_alone_is_not_enough(desk: Desk, ask: Any) -> None:
    desk.approve_prototype(MANIFEST)
    assert refusals(ask) == []


@pytest.fixture
def prototype(desk: Desk) -> Path:
    """The prototype run is approved."""
    return desk.approve_prototype(MANIFEST)


@pytest.mark.usefixtures("prototype")
class TestReleaseApproval:
    """Each reason why a release approval does not count."""

    def test_wrong_namespace(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, space="apgms-approval-proto")
        assert refusals(ask) == ["signature.wrong_namespace"]

    def test_other_stack(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, stack="proto")
        assert refusals(ask) == ["statement.other_stack"]

    def test_other_manifest(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(make_manifest(submission_id="another"))
        assert refusals(ask) == ["statement.other_manifest"]

    @pytest.mark.parametrize(
        ("member", "reason"),
        [
            ("rates_version", "statement.other_rates"),
            ("source_revision", "statement.other_revision"),
            ("collection_version", "statement.other_collection_version"),
        ],
    )
    def test_right_checksum_with_another_run(
        self, desk: Desk, ask: Any, member: str, reason: str
    ) -> None:
        subject = {"manifest_sha256": MANIFEST.checksum, **run_of(MANIFEST), member: "another"}
        desk.sign("release", "auditor", subject)
        assert refusals(ask) == [reason]

    def test_edited_text(self, desk: Desk, ask: Any) -> None:
        path = desk.approve_release(MANIFEST)
        path.write_bytes(path.read_bytes().replace(b"as agreed", b"as I like"))
        assert refusals(ask) == ["signature.edited"]

    def test_text_of_one_with_signature_of_another(self, desk: Desk, ask: Any) -> None:
        path = desk.approve_release(MANIFEST)
        other = desk.approve_release(make_manifest(submission_id="another"))
        path.with_name(f"{path.name}.sig").write_bytes(
            other.with_name(f"{other.name}.sig").read_bytes()
        )
        assert sorted(refusals(ask)) == ["signature.edited", "statement.other_manifest"]

    def test_expired(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, expires_at=NOW)
        assert refusals(ask) == ["statement.expired"]

    def test_not_yet_valid(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, not_before=NOW + timedelta(seconds=1))
        assert refusals(ask) == ["statement.not_yet_valid"]

    def test_valid_for_longer_than_the_policy_allows(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, expires_at=NOW + timedelta(minutes=240))
        assert refusals(ask) == ["statement.too_long"]

    def test_revoked_key(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, signer="approver")
        revoked = signer_line(desk.keys, "approver").split(" ", 2)[2]
        assert refusals(ask, policy=desk.policy(revoked_keys=[revoked])) == ["signature.revoked"]

    def test_signer_whom_the_policy_does_not_know(self, desk: Desk, ask: Any) -> None:
        key = make_ssh_key(desk.keys.folder / "stranger")
        desk.approve_release(MANIFEST, signer="stranger", key=key)
        assert refusals(ask) == ["statement.unknown_signer"]

    def test_strangers_key_under_a_known_name(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, key=make_ssh_key(desk.keys.folder / "stranger"))
        assert refusals(ask) == ["signature.unknown_signer"]

    def test_ones_key_under_anothers_name(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, key=desk.keys.person("approver"))
        assert refusals(ask) == ["signature.foreign_key"]

    def test_kind_that_the_signer_may_not_sign(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, signer="operator")
        assert refusals(ask) == ["statement.kind_not_allowed"]

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ('valid-after="20260303Z"', "signature.key_not_yet_valid"),
            ('valid-before="20260302095959Z"', "signature.key_expired"),
        ],
    )
    def test_key_outside_its_time(self, desk: Desk, ask: Any, option: str, reason: str) -> None:
        desk.approve_release(MANIFEST)
        lines = [signer_line(desk.keys, name) for name in ("operator", "auditor", "approver")]
        lines[1] = lines[1].replace(' namespaces="', f' {option},namespaces="')
        prototype_reason, release_reason = refusals(ask, policy=desk.policy(allowed_signers=lines))
        assert prototype_reason == release_reason == reason

    def test_key_that_is_not_for_the_namespace(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST)
        lines = [signer_line(desk.keys, name) for name in ("operator", "auditor", "approver")]
        lines[1] = lines[1].replace("apgms-approval-prod,", "")
        policy = desk.policy(allowed_signers=lines)
        assert refusals(ask, policy=policy) == ["signature.namespace_not_allowed"]

    def test_operator_approving_himself(self, desk: Desk, ask: Any) -> None:
        lines = [signer_line(desk.keys, name) for name in ("operator", "auditor", "approver")]
        lines[0] = lines[0].replace("apgms-intent", "apgms-approval-prod,apgms-intent")
        policy = desk.policy(
            signers=signers(desk, operator={"kinds": ["intent", "release"]}), allowed_signers=lines
        )
        desk.approve_release(MANIFEST, signer="operator")
        assert refusals(ask, policy=policy) == ["statement.own_approval"]

    def test_operator_approving_himself_under_a_second_name(self, desk: Desk, ask: Any) -> None:
        policy = desk.policy(signers=signers(desk, approver={"person": "olivia  OPERATOR"}))
        desk.approve_release(MANIFEST, signer="approver")
        assert refusals(ask, policy=policy) == ["statement.own_approval"]

    def test_used_twice(self, desk: Desk, connection: Any) -> None:
        desk.approve_release(MANIFEST)
        arguments = (connection, desk.policy(), desk.statements, MANIFEST, "operator", NOW)
        with connection.transaction(force_rollback=True):
            consume(connection, require_approvals(*arguments), MANIFEST.checksum)
            assert refusals(lambda: require_approvals(*arguments)) == ["statement.used"]

    def test_consumed_between_check_and_intent(self, desk: Desk, ask: Any, connection: Any) -> None:
        desk.approve_release(MANIFEST)
        approvals = ask()
        with connection.transaction(force_rollback=True):
            consume(connection, approvals, MANIFEST.checksum)
            with pytest.raises(ApgmsError) as error:
                consume(connection, approvals, MANIFEST.checksum)
        assert error.value.reason == "statement.used"

    def test_missing_signature_file(self, desk: Desk, ask: Any) -> None:
        path = desk.approve_release(MANIFEST)
        path.with_name(f"{path.name}.sig").unlink()
        assert refusals(ask) == ["statement.unsigned"]

    def test_garbage_instead_of_a_signature(self, desk: Desk, ask: Any) -> None:
        path = desk.approve_release(MANIFEST)
        path.with_name(f"{path.name}.sig").write_bytes(b"signed by me\n")
        assert refusals(ask) == ["signature.malformed"]

    def test_statement_that_is_not_canonical(self, desk: Desk, ask: Any) -> None:
        path = desk.approve_release(MANIFEST)
        path.write_bytes(path.read_bytes() + b"\n")
        assert refusals(ask) == ["statement.malformed"]

    def test_second_statement_counts_where_the_first_is_refused(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(MANIFEST, expires_at=NOW)
        desk.approve_release(MANIFEST)
        assert len(ask()) == 2


@pytest.mark.usefixtures("prototype")
class TestLargeRelease:
    """At $100,000 and above two persons must approve."""

    def test_one_approver_is_not_enough(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(LARGE)
        with pytest.raises(ApgmsError) as error:
            ask(LARGE)
        assert "1 of 2 persons signed" in str(error.value)
        assert "$100,000.00 is not below $100,000.00" in str(error.value)

    def test_one_cent_less_needs_one(self, desk: Desk, ask: Any) -> None:
        batch = dataclasses.replace(LARGE.batches[0], amount_cents=9_999_999)
        manifest = make_manifest(batches=(batch,))
        desk.approve_release(manifest)
        assert len(ask(manifest)) == 2

    def test_two_approvers_let_it_go(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(LARGE)
        desk.approve_release(LARGE, signer="approver")
        assert len(ask(LARGE)) == 3

    def test_one_person_signing_twice_counts_once(self, desk: Desk, ask: Any) -> None:
        desk.approve_release(LARGE)
        desk.approve_release(LARGE)
        assert refusals(ask, LARGE) == ["statement.same_person"]

    def test_one_person_under_two_names_counts_once(self, desk: Desk, ask: Any) -> None:
        quorums = {
            **policy_document(desk.keys)["quorums"],
            "policy": {"signatures": 1, "roles": []},
        }
        policy = desk.policy(
            signers=signers(desk, approver={"person": "AUDREY Auditor"}), quorums=quorums
        )
        desk.approve_release(LARGE)
        desk.approve_release(LARGE, signer="approver")
        assert refusals(ask, LARGE, policy=policy) == ["statement.same_person"]


class TestPrototypeApproval:
    """A prototype approval is good for one revision and one rates version, until superseded."""

    @pytest.fixture(autouse=True)
    def _release(self, desk: Desk) -> None:
        desk.approve_release(MANIFEST)

    @pytest.mark.parametrize(
        ("member", "reason"),
        [
            ("rates_version", "statement.other_rates"),
            ("source_revision", "statement.other_revision"),
            ("collection_version", "statement.other_collection_version"),
        ],
    )
    def test_other_run(self, desk: Desk, ask: Any, member: str, reason: str) -> None:
        desk.approve_prototype(make_manifest(**{member: "another"}))
        assert refusals(ask) == [reason]

    def test_prod_namespace(self, desk: Desk, ask: Any) -> None:
        desk.approve_prototype(MANIFEST, space="apgms-approval-prod")
        assert refusals(ask) == ["signature.wrong_namespace"]

    def test_stack_prod(self, desk: Desk, ask: Any) -> None:
        desk.approve_prototype(MANIFEST, stack="prod")
        assert refusals(ask) == ["statement.other_stack"]

    def test_superseded_by_the_approval_of_a_later_run(self, desk: Desk, ask: Any) -> None:
        desk.approve_prototype(MANIFEST, not_before=NOW - timedelta(minutes=9))
        desk.approve_prototype(make_manifest(source_revision="later"))
        assert sorted(refusals(ask)) == ["statement.other_revision", "statement.superseded"]

    def test_forged_later_approval_supersedes_nothing(self, desk: Desk, ask: Any) -> None:
        desk.approve_prototype(MANIFEST, not_before=NOW - timedelta(minutes=9))
        desk.approve_prototype(
            make_manifest(source_revision="later"), key=desk.keys.person("operator")
        )
        assert len(ask()) == 2

    def test_good_for_several_releases(self, desk: Desk, ask: Any, connection: Any) -> None:
        desk.approve_prototype(MANIFEST)
        second = make_manifest(submission_id="second")
        desk.approve_release(second)
        with connection.transaction(force_rollback=True):
            consume(connection, ask(), MANIFEST.checksum)
            consume(connection, ask(second), second.checksum)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"purpose": "rehearsal"}, "approval.not_a_release"),
        ({"stack": "proto"}, "approval.not_a_release"),
        ({"flags": Flags(seed=False, smoke=False, dry_run=True)}, "flags.forbidden"),
        ({"flags": Flags(seed=True, smoke=False, dry_run=False)}, "flags.forbidden"),
        ({"flags": Flags(seed=False, smoke=True, dry_run=False)}, "flags.forbidden"),
    ],
)
def test_manifest_that_is_no_release_cannot_be_approved(
    desk: Desk, ask: Any, changes: dict[str, Any], reason: str
) -> None:
    manifest = make_manifest(**changes)
    desk.approve_prototype(manifest)
    desk.approve_release(manifest)
    with pytest.raises(ApgmsError) as error:
        ask(manifest)
    assert error.value.reason == reason


@pytest.mark.parametrize("operator", ["nobody", "auditor", ""])
def test_operator_must_be_one(desk: Desk, ask: Any, operator: str) -> None:
    with pytest.raises(ApgmsError) as error:
        ask(operator=operator)
    assert error.value.reason == "approval.unknown_operator"


def test_statement_of_another_kind_is_found_by_its_subject(desk: Desk, connection: Any) -> None:
    subject = {"release_window": "202603020000"}
    desk.sign("override", "approver", subject)
    found = require_statement(
        connection, desk.policy(), desk.statements, "override", subject, NOW, "operator"
    )
    assert found[0].statement.reason == "as agreed"


def test_missing_statement_is_waited_for_with_its_command(desk: Desk, connection: Any) -> None:
    with pytest.raises(ApgmsError) as error:
        require_statement(
            connection, desk.policy(), desk.statements, "lock_break", {"lease_token": "7"}, NOW
        )
    assert error.value.reason == "approval.waiting"
    asked = '{"approve_subject": {"lease_token": "7"}, "approve_reason": "WHY"}'
    assert f"-e approve_kind=lock_break -e '{asked}'" in str(error.value)


def test_statement_without_the_reason_that_its_kind_needs(desk: Desk, connection: Any) -> None:
    subject = {"release_window": "202603020000"}
    desk.sign("override", "approver", subject, reason=" ")
    with pytest.raises(ApgmsError) as error:
        require_statement(connection, desk.policy(), desk.statements, "override", subject, NOW)
    assert error.value.details["refusals"][0]["reason"] == "statement.malformed"


def test_kind_without_a_quorum_needs_no_statement(desk: Desk, connection: Any) -> None:
    subject = {"manifest_sha256": "ab" * 32, "plan_sha256": "cd" * 32}
    assert (
        require_statement(connection, desk.policy(), desk.statements, "rollback", subject, NOW)
        == []
    )


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_is_no_small_file_is_named_and_harmless(
    desk: Desk, ask: Any, prototype: Path, kind: str
) -> None:
    place_no_small_file(Path(desk.statements) / "a.json", kind)
    signed = desk.approve_release(MANIFEST)
    place_no_small_file(signed.with_name(f"{signed.name}.sig"), kind)
    with pytest.raises(ApgmsError) as error:
        ask()
    found = {refusal["reason"] for refusal in error.value.details["refusals"]}
    assert {"statement.malformed", "statement.unsigned"} <= found
    desk.approve_release(MANIFEST)
    assert len(ask()) == 2


def test_ten_thousand_statements_of_others_are_read_in_seconds(
    desk: Desk, ask: Any, prototype: Path
) -> None:
    desk.approve_release(MANIFEST)
    other = desk.approve_release(make_manifest(submission_id="other"))
    data, signature = other.read_bytes(), other.with_name(f"{other.name}.sig").read_bytes()
    for number in range(5000):
        copy = other.with_name(f"copy-{number}.json")
        copy.write_bytes(data)
        copy.with_name(f"{copy.name}.sig").write_bytes(signature)
    begun = time.monotonic()
    assert len(ask()) == 2
    assert time.monotonic() - begun < 20


def test_stray_json_in_the_folder_is_named_and_harmless(
    desk: Desk, ask: Any, prototype: Path
) -> None:
    desk.approve_release(MANIFEST)
    stray = Path(desk.statements) / "notes.json"
    stray.write_bytes(canonical({"note": "not a statement"}))
    assert len(ask()) == 2
