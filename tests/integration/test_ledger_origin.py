"""A new origin of the ledger log: what opens it, and that nothing else does."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    parse_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger import (
    checkpoint as notes,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    check_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.intact import (
    require_intact,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.new_origin import (
    open_origin,
)
from services.keys import make_ssh_key, policy_document, write_policy
from tests.approvals import Desk, place_no_small_file
from tests.ledgers import LedgerWriter, Stack, fill, forget, make_stack, run_snapshot

RESTORE = "log/apgms.local/prod/restore"


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


def opens(stack: Stack) -> dict[str, Any]:
    """Return the options with which a snapshot opens a new origin."""
    return {"restore": True, "statements": str(stack.folder / "statements")}


def restored(stack: Stack) -> None:
    """Put the database back to before its log: rows, records and all."""
    stack.execute("DELETE FROM owa_ledger WHERE id > 100")
    forget(stack, 0)


def sign_restore(stack: Stack, said: dict[str, Any], /, **changes: Any) -> Path:
    """Sign a restore statement about a document as the auditor, unless ``changes`` say otherwise."""
    return sign(stack, sha256_hex(canonical(said)), **changes)


def sign(stack: Stack, sha256: str, /, **changes: Any) -> Path:
    now = datetime.now(UTC)
    given = {
        "signer": "auditor",
        "subject": {"act": "ledger_log", "sha256": sha256},
        "not_before": now - timedelta(minutes=1),
        "expires_at": now + timedelta(minutes=60),
        **changes,
    }
    return Desk(stack.keys, stack.folder).sign("restore", **given)


def asked_for(stack: Stack) -> str:
    """Ask for a new origin without a statement; return the digest that the refusal names."""
    refused = run_snapshot(stack, **opens(stack))
    assert refused["reason"] == "approval.waiting"
    return refused["msg"].partition("sha256 ")[2][:64]


def test_a_restored_database_goes_on_in_a_new_origin_under_a_signed_statement(
    stack: Stack,
) -> None:
    fill(stack, LedgerWriter(), 150)
    first = stack.snapshot()
    stack.cosign()
    restored(stack)
    refused = run_snapshot(stack)
    assert refused["reason"] == "log.database_behind"
    assert refused["missing_ids"] == [["101", "150"]]
    options = opens(stack)
    assert run_snapshot(stack, **options)["reason"] == "approval.waiting"

    said = {
        "schema": "apgms.release/log-restore/1",
        "origin": "apgms.local/prod/2",
        "previous": {"origin": "apgms.local/prod", "tree_size": "150", "root": first.root.hex()},
    }
    sign_restore(stack, said)
    predicted = run_snapshot(stack, check=True, **options)
    done = run_snapshot(stack, **options)
    assert done == predicted
    assert (done["origin"], done["tree_size"]) == ("apgms.local/prod/2", 100)
    with stack.store.open(f"{RESTORE}/0002/restore.json") as stream:
        assert json.loads(stream.read()) == said

    assert not stack.snapshot().changed
    assert run_snapshot(stack, **options)["reason"] == "log.nothing_to_restore"
    assert stack.cosign().head.tree_size == 100


def test_a_statement_about_another_head_opens_nothing(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 150)
    stack.snapshot()
    restored(stack)
    other = {"origin": "apgms.local/prod", "tree_size": "149", "root": "00" * 32}
    sign_restore(
        stack,
        {
            "schema": "apgms.release/log-restore/1",
            "origin": "apgms.local/prod/2",
            "previous": other,
        },
    )
    assert run_snapshot(stack, **opens(stack))["reason"] == "approval.waiting"
    assert list(stack.store.keys(f"{RESTORE}/")) == []


def document(stack: Stack, **changes: Any) -> dict[str, Any]:
    """Return what opens the origin after the log's own, as it stands."""
    [*_smaller, newest] = sorted((stack.folder / "store/log/apgms.local/prod/checkpoint").iterdir())
    _origin, size, root = newest.read_text().split("\n")[:3]
    previous = {
        "origin": "apgms.local/prod",
        "tree_size": size,
        "root": base64.b64decode(root).hex(),
    }
    said = {
        "schema": "apgms.release/log-restore/1",
        "origin": "apgms.local/prod/2",
        "previous": previous,
    }
    return said | changes


def plant(stack: Stack, said: Any, generation: str = "0002") -> None:
    """Put what would open an origin into the store, as who may put objects there."""
    data = said if isinstance(said, bytes) else canonical(said)
    stack.store.put_new(f"{RESTORE}/{generation}/restore.json", data)


def plant_statement(stack: Stack, path: Path, *, signed: bool = True) -> None:
    for name in (path.name, f"{path.name}.sig") if signed else (path.name,):
        stack.store.put_new(f"{RESTORE}/0002/{name}", path.with_name(name).read_bytes())


def require_refused(stack: Stack, why: str) -> None:
    """Everything that reads the log refuses it."""
    with stack.connection() as connection:
        for ask in (
            lambda: require_intact(connection, stack.store, stack.policy),
            lambda: check_ledger(connection, stack.store, stack.policy),
            lambda: stack.snapshot(verify="full"),
            stack.snapshot,
            stack.cosign,
        ):
            with pytest.raises(ApgmsError) as caught:
                ask()
            assert caught.value.reason == "log.origin_unapproved"
            assert why in str(caught.value)


@pytest.fixture
def tampered(stack: Stack) -> Stack:
    """A stack whose ledger is not what the auditor confirmed."""
    fill(stack, LedgerWriter(), 300)
    stack.snapshot()
    stack.cosign()
    stack.execute("UPDATE owa_ledger SET amount_cents = 1 WHERE id = 299")
    return stack


@pytest.mark.parametrize("said", [b"", b"junk", b"{}"])
def test_junk_opens_no_origin(tampered: Stack, said: bytes) -> None:
    plant(tampered, said)
    require_refused(tampered, "it does not name the newest head")


def test_a_document_without_statement_opens_no_origin(tampered: Stack) -> None:
    plant(tampered, document(tampered))
    require_refused(tampered, "0 of 1 persons signed")


@pytest.mark.parametrize("generation", ["0000", "0001", "0009", "00002", "9" * 200])
def test_a_generation_out_of_turn_opens_no_origin(tampered: Stack, generation: str) -> None:
    plant(tampered, document(tampered), generation)
    require_refused(tampered, f"{generation} is there, 0002 is not")


@pytest.mark.parametrize(
    "name", ["0002", "0002/restore.json~", "002/restore.json", "x/restore.json"]
)
def test_what_opens_no_origin_is_no_matter(stack: Stack, name: str) -> None:
    fill(stack, LedgerWriter(), 10)
    stack.store.put_new(f"{RESTORE}/{name}", b"junk")
    assert stack.snapshot().origin == "apgms.local/prod"
    assert stack.cosign().head.tree_size == 10


@pytest.mark.parametrize("said", [b"", b"\xff", b"[" * 100_000, b"{}", b'{"schema":1}'])
def test_junk_beside_a_document_is_no_statement(tampered: Stack, said: bytes) -> None:
    plant(tampered, document(tampered))
    tampered.store.put_new(f"{RESTORE}/0002/junk.json", said)
    require_refused(tampered, "0 of 1 persons signed")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pipe", "object_store.unreachable"),
        ("device", "object_store.unreachable"),
        ("folder", "log.rows_differ"),
    ],
)
def test_what_is_no_file_opens_no_origin(tampered: Stack, kind: str, reason: str) -> None:
    path = tampered.folder / "store" / RESTORE / "0002/restore.json"
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    else:
        place_no_small_file(path, kind)
    with pytest.raises(ApgmsError) as caught:
        tampered.snapshot(verify="full")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "other",
    [
        {"origin": "apgms.local/prod/3"},
        {"schema": "apgms.release/log-restore/2"},
        {"more": "1"},
        {"previous": {"origin": "apgms.local/prod", "tree_size": "200", "root": "00" * 32}},
    ],
)
def test_a_signed_document_about_something_else_opens_no_origin(
    tampered: Stack, other: dict[str, Any]
) -> None:
    said = document(tampered, **other)
    plant_statement(tampered, sign_restore(tampered, said))
    plant(tampered, said)
    require_refused(tampered, "it does not name the newest head")


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("it names act restore rows", {"subject": {"act": "restore rows", "sha256": "00" * 32}}),
        ("it names sha256", {"subject": {"act": "ledger_log", "sha256": "00" * 32}}),
        ("it is for proto", {"stack": "proto"}),
        ("may sign intent", {"signer": "operator"}),
        ("'nobody' is no signer", {"signer": "nobody", "key": "auditor"}),
        ("the key is approver's", {"key": "approver"}),
        ("nobody with the role auditor signed", {"signer": "approver"}),
    ],
)
def test_a_statement_that_does_not_count_opens_no_origin(
    tampered: Stack, why: str, changes: dict[str, Any]
) -> None:
    said = document(tampered)
    if "key" in changes:
        changes = changes | {"key": tampered.keys.person(changes["key"])}
    plant_statement(tampered, sign_restore(tampered, said, **changes))
    plant(tampered, said)
    require_refused(tampered, why)


def test_a_statement_of_another_kind_opens_no_origin(tampered: Stack) -> None:
    said = document(tampered)
    desk = Desk(tampered.keys, tampered.folder)
    plant_statement(tampered, desk.sign("override", "auditor", {"release_window": "1-2"}))
    plant(tampered, said)
    require_refused(tampered, "0 of 1 persons signed")


def test_an_altered_or_missing_signature_opens_no_origin(tampered: Stack) -> None:
    said = document(tampered)
    path = sign_restore(tampered, said)
    plant_statement(tampered, path, signed=False)
    plant(tampered, said)
    require_refused(tampered, "no object holds its signature")
    other = sign_restore(tampered, said, signer="approver")
    signature = other.with_name(f"{other.name}.sig").read_bytes()
    tampered.store.put_new(f"{RESTORE}/0002/{path.name}.sig", signature)
    require_refused(tampered, "0 of 1 persons signed")


def test_a_statement_opens_nothing_before_the_document_is_there(tampered: Stack) -> None:
    plant_statement(tampered, sign_restore(tampered, document(tampered)))
    with pytest.raises(ApgmsError) as caught:
        tampered.snapshot(verify="full")
    assert caught.value.reason == "log.rows_differ"


def test_a_log_that_went_on_after_it_was_left_is_noticed(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 150)
    stack.snapshot()
    stack.execute("DELETE FROM owa_ledger WHERE id > 149")
    sign_restore(stack, document(stack))
    assert run_snapshot(stack, **opens(stack))["tree_size"] == 149
    assert stack.cosign().head.origin == "apgms.local/prod/2"
    checkpoint = sign_checkpoint(stack, "apgms.local/prod", 151)
    stack.store.put_new("log/apgms.local/prod/checkpoint/0000000000000151", checkpoint)
    require_refused(stack, "it does not name the newest head")


def sign_checkpoint(stack: Stack, origin: str, size: int) -> bytes:
    signer = open_signer(str(stack.keys.log_key), "ed25519")
    checkpoint = notes.Checkpoint(origin, size, bytes(32))
    return notes.sign(checkpoint, signer.public_pem, signer.sign)


def test_an_expired_key_opens_no_origin_with_a_statement_dated_back(tampered: Stack) -> None:
    lines = policy_document(tampered.keys)["allowed_signers"]
    expired = [
        line.replace(" namespaces=", ' valid-before="20250801Z",namespaces=') for line in lines
    ]
    policy = write_policy(
        tampered.keys, tampered.folder, policy_document(tampered.keys, allowed_signers=expired)
    )
    tampered.policy = parse_policy(policy.read_bytes(), str(policy))
    said, then = document(tampered), datetime(2025, 7, 1, tzinfo=UTC)
    dates = {"not_before": then, "expires_at": then + timedelta(minutes=60)}
    plant_statement(tampered, sign_restore(tampered, said, **dates))
    plant(tampered, said)
    require_refused(tampered, "was valid before")


def test_a_statement_of_tomorrow_opens_no_origin_today(tampered: Stack) -> None:
    said, then = document(tampered), datetime.now(UTC) + timedelta(days=1)
    dates = {"not_before": then, "expires_at": then + timedelta(minutes=60)}
    plant_statement(tampered, sign_restore(tampered, said, **dates))
    plant(tampered, said)
    require_refused(tampered, "it is valid from")


def test_one_person_who_signs_twice_is_no_quorum_of_two(tampered: Stack) -> None:
    quorums = policy_document(tampered.keys)["quorums"]
    quorums["restore"]["signatures"] = 2
    path = write_policy(
        tampered.keys, tampered.folder, policy_document(tampered.keys, quorums=quorums)
    )
    tampered.policy = parse_policy(path.read_bytes(), str(path))
    said = document(tampered)
    for _ in range(2):
        plant_statement(tampered, sign_restore(tampered, said))
    plant(tampered, said)
    require_refused(tampered, "has signed already")
    plant_statement(tampered, sign_restore(tampered, said, signer="approver"))
    assert tampered.snapshot().origin == "apgms.local/prod/2"


def test_an_origin_stays_open_when_its_statement_has_expired(tampered: Stack) -> None:
    said, then = document(tampered), datetime(2025, 7, 1, tzinfo=UTC)
    expired = {"not_before": then, "expires_at": then + timedelta(minutes=60)}
    plant_statement(tampered, sign_restore(tampered, said, **expired))
    plant(tampered, said)
    assert tampered.snapshot().origin == "apgms.local/prod/2"


class _CutOff(Exception):
    pass


class _Cutting(FolderStore):
    """A folder that is cut off after some objects were put."""

    def __init__(self, root: Path, puts: int) -> None:
        super().__init__(root)
        self._puts = puts

    def put_new(self, key: str, data: bytes | Path) -> bool:
        if not self._puts:
            raise _CutOff
        self._puts -= 1
        new = super().put_new(key, data)
        if key.endswith("restore.json"):
            raise _CutOff
        return new


@pytest.mark.parametrize("puts", range(4))
def test_an_opening_that_was_cut_off_is_taken_up_again(tampered: Stack, puts: int) -> None:
    sign(tampered, asked_for(tampered))
    cutting = _Cutting(tampered.folder / "store", puts)
    folder = str(tampered.folder / "statements")
    with tampered.connection() as connection, pytest.raises(_CutOff):
        open_origin(connection, cutting, tampered.policy, folder, SystemClock())
    assert tampered.execute("SELECT nonce FROM apgms_release.used_statement") == []
    again = run_snapshot(tampered, **opens(tampered))
    if puts == 3:  # it was opened; only the statement's use was not recorded
        assert again["reason"] == "log.nothing_to_restore"
        again = run_snapshot(tampered)
    assert (again["origin"], again["tree_size"]) == ("apgms.local/prod/2", 300)
    assert tampered.cosign().head.tree_size == 300


def test_no_statement_is_used_up_where_the_store_does_not_list_what_it_was_given(
    tampered: Stack,
) -> None:
    sign(tampered, asked_for(tampered))
    elsewhere = tampered.folder / "elsewhere"
    elsewhere.mkdir()
    folder = tampered.folder / "store" / RESTORE
    folder.mkdir()
    (folder / "0002").symlink_to(elsewhere)
    assert run_snapshot(tampered, **opens(tampered))["reason"] == "log.object_missing"
    (folder / "0002").unlink()
    assert run_snapshot(tampered, **opens(tampered))["origin"] == "apgms.local/prod/2"


def test_a_third_origin_follows_the_second(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 150)
    stack.snapshot()
    for generation, gone in ((2, 150), (3, 149)):
        stack.execute("DELETE FROM owa_ledger WHERE id = %s", gone)
        sign(stack, asked_for(stack))
        done = run_snapshot(stack, **opens(stack))
        assert done["origin"] == f"apgms.local/prod/{generation}"
    assert stack.cosign().head.tree_size == 148
    replace_the_auditors_key(stack)
    for _generation in (2, 3):
        sign(stack, asked_for(stack))
    assert not run_snapshot(stack, **opens(stack))["changed"]
    (stack.folder / "store" / RESTORE / "0002/restore.json").unlink()
    require_refused(stack, "0003 is there, 0002 is not")


def test_when_the_signer_leaves_the_policy_the_quorum_signs_the_origin_again(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 150)
    stack.snapshot()
    stack.execute("DELETE FROM owa_ledger WHERE id = 150")
    sign(stack, asked_for(stack))
    assert run_snapshot(stack, **opens(stack))["origin"] == "apgms.local/prod/2"

    replace_the_auditors_key(stack)
    require_refused(stack, "0 of 1 persons signed")
    sign(stack, asked_for(stack))
    assert not run_snapshot(stack, **opens(stack), check=True)["changed"]
    assert not run_snapshot(stack, **opens(stack))["changed"]
    assert not stack.snapshot().changed


def replace_the_auditors_key(stack: Stack) -> None:
    """Have the policy succeeded by one that revokes the auditor's key and names a new one."""
    old = stack.keys.person("auditor")
    new = make_ssh_key(old.with_name("new"))
    document = policy_document(stack.keys, version=2, previous=stack.policy.digest)
    lost, found = (" ".join(key.with_suffix(".pub").read_text().split()[:2]) for key in (old, new))
    lines = document["allowed_signers"]
    document["allowed_signers"] = [line.replace(lost, found) for line in lines]
    document["revoked_keys"] = [lost]
    path = write_policy(stack.keys, stack.folder, document)
    for suffix in ("", ".pub"):
        new.with_suffix(suffix).replace(old.with_suffix(suffix))
    stack.policy = parse_policy(path.read_bytes(), str(path))
