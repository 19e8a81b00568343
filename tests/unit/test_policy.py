# GNU General Public License v3.0+ (see COPYING)
"""The text of a policy: what is read, and what is refused before anybody trusts it."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    missing_from_quorum,
    namespace,
    parse_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from services.keys import Keys, make_keys, policy_document, signer_line


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"), "prod")


def refusal(document: Any) -> ApgmsError:
    with pytest.raises(ApgmsError) as error:
        parse_policy(canonical(document), "policy.json")
    return error.value


def test_every_member_is_read(keys: Keys) -> None:
    policy = parse_policy(canonical(policy_document(keys)), "policy.json")
    assert (policy.stack, policy.version, policy.previous) == ("prod", 1, None)
    assert policy.dual_approval_cents == 10_000_000
    assert (policy.approval_minutes, policy.prototype_minutes) == (240, 43200)
    assert policy.signers["auditor"].person == "Audrey Auditor"
    assert [line.principal for line in policy.allowed_signers] == [
        "operator", "auditor", "approver",
    ]  # fmt: skip
    assert policy.log.origin == "apgms.local/prod"


MEMBERS = (
    "schema", "stack", "version", "previous", "signers", "allowed_signers", "revoked_keys",
    "quorums", "thresholds", "windows", "gateway", "log", "rpt_keys", "manifest_keys",
)  # fmt: skip


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_is_needed(keys: Keys, member: str) -> None:
    document = policy_document(keys)
    del document[member]
    error = refusal(document)
    assert error.reason == "policy.malformed"
    assert member in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": True},
        {"version": 2},
        {"previous": "ab" * 32},
        {"stack": "staging"},
        {"note": "x"},
        {"windows": []},
        {"windows": {"zone": "Mars/Base", "calendar": [], "blackouts": []}},
        {"rpt_keys": {"kid": "not a key"}},
        {"manifest_keys": {"kid": "-----BEGIN PRIVATE KEY-----"}},
    ],
    ids=str,
)
def test_malformed_member_is_refused(keys: Keys, changes: dict[str, Any]) -> None:
    assert refusal({**policy_document(keys), **changes}).reason == "policy.malformed"


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_policy_is_refused(data: bytes) -> None:
    with pytest.raises(ApgmsError) as error:
        parse_policy(data, "policy.json")
    assert error.value.reason == "policy.malformed"


def test_one_key_under_two_names_is_refused(keys: Keys) -> None:
    lines = policy_document(keys)["allowed_signers"]
    lines[2] = signer_line(keys, "auditor").replace("auditor ", "approver ", 1)
    error = refusal({**policy_document(keys), "allowed_signers": lines})
    assert error.reason == "policy.shared_key"
    assert "auditor and approver" in str(error)


def test_line_of_nobody_is_refused(keys: Keys) -> None:
    lines = policy_document(keys)["allowed_signers"]
    lines[2] = lines[2].replace("approver ", "nobody ", 1)
    error = refusal({**policy_document(keys), "allowed_signers": lines})
    assert error.reason == "policy.unlisted_signer"


def test_wildcard_line_is_refused_with_its_number(keys: Keys) -> None:
    lines = policy_document(keys)["allowed_signers"]
    lines[1] = lines[1].replace("auditor ", "* ", 1)
    error = refusal({**policy_document(keys), "allowed_signers": lines})
    assert error.reason == "signers.wildcard"
    assert "policy.json, allowed_signers, line 2" in str(error)


@pytest.mark.parametrize(
    "quorum", [{"signatures": 3, "roles": []}, {"signatures": 1, "roles": ["judge"]}]
)
def test_quorum_that_nobody_can_reach_is_refused(keys: Keys, quorum: dict[str, Any]) -> None:
    quorums = {**policy_document(keys)["quorums"], "release": quorum}
    error = refusal({**policy_document(keys), "quorums": quorums})
    assert error.reason == "policy.unreachable_quorum"


def test_quorum_of_nobody_is_possible_for_rollbacks_only(keys: Keys) -> None:
    nobody = {"signatures": 0, "roles": []}
    quorums = policy_document(keys)["quorums"]
    assert quorums["rollback"] == nobody
    for kind in set(quorums) - {"rollback"}:
        error = refusal({**policy_document(keys), "quorums": {**quorums, kind: nobody}})
        assert error.reason == "policy.malformed", kind


def test_quorum_counts_persons_and_wants_its_roles(keys: Keys) -> None:
    policy = parse_policy(canonical(policy_document(keys)), "policy.json")
    assert missing_from_quorum(policy, "policy", ["auditor"]) == "1 of 2 persons signed"
    assert missing_from_quorum(policy, "policy", ["auditor", "approver"]) is None
    assert missing_from_quorum(policy, "release", ["approver"]) == (
        "nobody with the role auditor signed"
    )
    assert missing_from_quorum(policy, "release", ["auditor"], 2) == "1 of 2 persons signed"


@pytest.mark.parametrize(
    ("kind", "stack", "name"),
    [
        ("prototype", "proto", "apgms-approval-proto"),
        ("release", "prod", "apgms-approval-prod"),
        ("rollback", "proto", "apgms-approval-proto"),
        ("intent", "prod", "apgms-intent-prod"),
        ("policy", "prod", "apgms-policy-prod"),
    ],
)
def test_namespaces(kind: str, stack: str, name: str) -> None:
    assert namespace(kind, stack) == name


@pytest.mark.parametrize(
    "person",
    [
        "olivia  OPERATOR", "\uff2flivia Operator", "\u041elivia Operator", "0livia Operator",
        "Ol\u0456via Operator", "Olivia\u200b Operator", "OIivia Operator", "\u039flivia Operator",
    ],
)  # fmt: skip
def test_a_person_is_one_whatever_letters_the_name_is_written_with(keys: Keys, person: str) -> None:
    document = policy_document(keys)
    document["signers"]["approver"]["person"] = person
    policy = parse_policy(canonical(document), "policy.json")
    assert policy.signers["approver"].person_key == policy.signers["operator"].person_key


def test_other_names_are_other_persons(keys: Keys) -> None:
    document = policy_document(keys)
    names = ("\u041e\u043b\u044c\u0433\u0430", "Oliver Operator", "\u674e\u5a1c")
    for principal, person in zip(document["signers"], names, strict=True):
        document["signers"][principal]["person"] = person
    policy = parse_policy(canonical(document), "policy.json")
    assert len({signer.person_key for signer in policy.signers.values()}) == 3
