# GNU General Public License v3.0+ (see COPYING)
"""The policy in force: first use, succession, and every way to get another one accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect, rehearsal
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
    pin_policy,
)
from services.keys import (
    Keys,
    make_keys,
    make_ssh_key,
    policy_document,
    signer_line,
    ssh_sign,
    write_policy,
)
from tests.approvals import place_no_small_file


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"), "prod")


@pytest.fixture(scope="module")
def migrated(module_database_url: str) -> Iterator[Any]:
    with connect(module_database_url, None, purpose="test") as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def connection(migrated: Any) -> Iterator[Any]:
    """A connection whose writes are rolled back after the test."""
    with rehearsal(migrated):
        yield migrated


@pytest.fixture
def write(keys: Keys, tmp_path: Path) -> Callable[..., str]:
    """Write a policy with changes to its members, signed by ``signed_by``; return its path."""

    def write(signed_by: tuple[str, ...] | None = None, **changes: Any) -> str:
        return str(write_policy(keys, tmp_path, policy_document(keys, **changes), signed_by))

    return write


def refusal(connection: Any, path: str, stack: str = "prod") -> ApgmsError:
    with pytest.raises(ApgmsError) as error:
        load_policy(connection, path, stack)
    return error.value


def test_first_use_pins_version_and_digest(connection: Any, write: Callable[..., str]) -> None:
    first = pin_policy(connection, write(), "prod")
    again = pin_policy(connection, write(), "prod")
    assert first.before is None
    assert first.signers == ("approver", "auditor")
    assert again.before is not None
    assert again.before.digest == first.policy.digest == again.policy.digest


def test_pinned_policy_needs_no_signature_files_any_more(
    connection: Any, write: Callable[..., str]
) -> None:
    load_policy(connection, write(), "prod")
    assert load_policy(connection, write(signed_by=()), "prod").version == 1


def test_first_policy_must_be_signed_by_its_own_quorum(
    connection: Any, write: Callable[..., str]
) -> None:
    error = refusal(connection, write(signed_by=("auditor",)))
    assert error.reason == "policy.unsigned"
    assert "1 of 2 persons" in str(error)


def test_successor_signed_by_the_quorum_before_it_takes_over(
    connection: Any, write: Callable[..., str]
) -> None:
    first = load_policy(connection, write(), "prod")
    second = pin_policy(connection, write(version=2, previous=first.digest), "prod")
    assert second.before is not None
    assert (second.before.version, second.policy.version) == (1, 2)


def test_signature_by_a_revoked_key_does_not_count(
    connection: Any, keys: Keys, write: Callable[..., str]
) -> None:
    revoked = signer_line(keys, "approver").split(" ", 2)[2]
    assert refusal(connection, write(revoked_keys=[revoked])).reason == "signature.revoked"


def test_signature_in_another_namespace_does_not_count(
    connection: Any, keys: Keys, write: Callable[..., str]
) -> None:
    path = Path(write())
    signature = ssh_sign(keys.person("auditor"), "apgms-approval-prod", path.read_bytes())
    path.with_name("policy.json.auditor.sig").write_bytes(signature)
    assert refusal(connection, str(path)).reason == "signature.wrong_namespace"


def test_text_changed_after_signing_is_refused(connection: Any, write: Callable[..., str]) -> None:
    path = Path(write())
    path.write_bytes(path.read_bytes().replace(b'"10000000"', b'"99999999"'))
    assert refusal(connection, str(path)).reason == "signature.edited"


def test_policy_of_the_other_stack_is_refused(connection: Any, write: Callable[..., str]) -> None:
    assert refusal(connection, write(), "proto").reason == "policy.other_stack"


def test_shortened_file_is_refused(connection: Any, write: Callable[..., str]) -> None:
    path = Path(write())
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(connection, str(path)).reason == "policy.malformed"


def test_missing_file_is_refused(connection: Any, tmp_path: Path) -> None:
    assert refusal(connection, str(tmp_path / "policy.json")).reason == "policy.unreadable"


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
@pytest.mark.parametrize("of", ["policy.json", "policy.json.auditor.sig"])
def test_what_is_no_small_file_is_refused_at_once(
    connection: Any, write: Callable[..., str], kind: str, of: str
) -> None:
    path = Path(write())
    place_no_small_file(path.with_name(of), kind)
    assert refusal(connection, str(path)).reason == "policy.unreadable"


class TestPinned:
    """Version 1 is in force."""

    @pytest.fixture(autouse=True)
    def _pin(self, connection: Any, write: Callable[..., str]) -> None:
        self.digest = load_policy(connection, write(), "prod").digest

    def test_edit_is_refused_even_with_new_signatures(
        self, connection: Any, keys: Keys, write: Callable[..., str]
    ) -> None:
        thresholds = {**policy_document(keys)["thresholds"], "dual_approval_cents": "99999999"}
        assert refusal(connection, write(thresholds=thresholds)).reason == "policy.edited"

    def test_successor_of_another_policy_is_refused(
        self, connection: Any, write: Callable[..., str]
    ) -> None:
        path = write(version=2, previous="ab" * 32)
        assert refusal(connection, path).reason == "policy.swapped"

    def test_version_that_leaves_one_out_is_refused(
        self, connection: Any, write: Callable[..., str]
    ) -> None:
        path = write(version=3, previous=self.digest)
        assert refusal(connection, path).reason == "policy.skipped_version"

    def test_older_version_is_refused(self, connection: Any, write: Callable[..., str]) -> None:
        load_policy(connection, write(version=2, previous=self.digest), "prod")
        assert refusal(connection, write()).reason == "policy.older"

    def test_successor_without_signatures_is_refused(
        self, connection: Any, write: Callable[..., str]
    ) -> None:
        path = write(signed_by=(), version=2, previous=self.digest)
        error = refusal(connection, path)
        assert error.reason == "policy.unsigned"
        assert "the quorum of version 1: 0 of 2 persons signed" in str(error)

    def test_successor_cannot_appoint_its_own_signers(
        self, connection: Any, keys: Keys, write: Callable[..., str]
    ) -> None:
        """Mallory names himself in the new policy and signs it, with one signer of the old."""
        mallory = make_ssh_key(keys.folder / "people" / "mallory").with_suffix(".pub")
        line = f'mallory namespaces="apgms-policy-prod" {mallory.read_text().strip()}'
        document = policy_document(keys)
        signers = {
            **document["signers"],
            "mallory": {"person": "Mallory", "roles": ["auditor"], "kinds": ["policy"]},
        }
        path = write(
            signed_by=("auditor", "mallory"),
            version=2,
            previous=self.digest,
            allowed_signers=[*document["allowed_signers"], line],
            signers=signers,
        )
        assert refusal(connection, path).reason == "policy.unsigned"

    def test_successor_cannot_lower_the_quorum_by_itself(
        self, connection: Any, keys: Keys, write: Callable[..., str]
    ) -> None:
        quorums = policy_document(keys)["quorums"]
        quorums["policy"] = {"signatures": 1, "roles": ["auditor"]}
        path = write(signed_by=("auditor",), version=2, previous=self.digest, quorums=quorums)
        assert refusal(connection, path).reason == "policy.unsigned"

    def test_key_revoked_by_the_successor_still_signs_it_and_nothing_after(
        self, connection: Any, keys: Keys, write: Callable[..., str]
    ) -> None:
        revoked = [signer_line(keys, "approver").split(" ", 2)[2]]
        path = write(version=2, previous=self.digest, revoked_keys=revoked)
        second = load_policy(connection, path, "prod")
        path = write(version=3, previous=second.digest, revoked_keys=revoked)
        assert refusal(connection, path).reason == "signature.revoked"

    def test_pin_cannot_be_rewritten(self, connection: Any) -> None:
        with pytest.raises(psycopg.Error, match="append"), connection.transaction():
            connection.execute("UPDATE apgms_release.policy SET sha256 = 'x'")

    def test_refused_policy_leaves_the_pin_as_it_was(
        self, connection: Any, write: Callable[..., str]
    ) -> None:
        refusal(connection, write(signed_by=(), version=2, previous=self.digest))
        assert load_policy(connection, write(), "prod").version == 1


def test_prediction_pins_nothing(connection: Any, write: Callable[..., str]) -> None:
    with rehearsal(connection):
        load_policy(connection, write(), "prod")
    count = connection.execute("SELECT count(*) FROM apgms_release.policy").fetchone()
    assert count == (0,)
