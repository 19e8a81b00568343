# GNU General Public License v3.0+ (see COPYING)
"""Bundles from a real database: what is built, frozen, resumed and refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.site_rules import (
    SiteRule,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Flags,
    object_key,
    parse_manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.files import (
    require_unaltered,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.rpt_bundle import (
    Bundle,
    Order,
    Ports,
    build_bundle,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    publish,
    pull,
)
from services.keys import Keys, make_keys, policy_document, write_policy
from services.loader import load
from services.rates.__main__ import SHIPPED
from tests.conftest import fresh_database
from tests.module_process import run_module

Connection = psycopg.Connection[tuple[Any, ...]]
PERIOD = "2025-09"


@pytest.fixture(params=["prod"])
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def keys(key_folder: Path, stack: str) -> Keys:
    return make_keys(key_folder, stack)


@contextmanager
def opened(database_url: str, keys: Keys, tmp_path: Path) -> Iterator[Ports]:
    """A loaded ledger, a policy in force and empty stores."""
    store = FolderStore(tmp_path / "store")
    publish(store, SHIPPED)
    pull(store, FolderStore(tmp_path / "rates"), [PERIOD])
    policy_path = write_policy(keys, tmp_path / "policy", policy_document(keys))
    with connect(database_url, None, purpose="test") as connection:
        if not connection.execute("SELECT 1 FROM periods LIMIT 1").fetchone():
            load(connection, seed=1, entities=3, periods=[PERIOD], rpt_key=keys.rpt_key)
        yield Ports(
            connection=connection,
            store=store,
            local=FolderStore(tmp_path / "bundles"),
            policy=load_policy(connection, str(policy_path), keys.stack),
            manifest_signer=open_signer(str(keys.manifest_key), "ecdsa-p256"),
            log_signer=open_signer(str(keys.log_key), "ed25519"),
            clock=DatabaseClock(connection),
        )


@pytest.fixture
def own_ports(database_url: str, keys: Keys, tmp_path: Path) -> Iterator[Ports]:
    """On a database of its own, where transactions are committed."""
    with opened(database_url, keys, tmp_path) as ports:
        yield ports


@pytest.fixture(scope="module")
def databases(postgres_url: str) -> Iterator[dict[str, str]]:
    """A database for each stack; each is loaded by the first test that uses it."""
    with fresh_database(postgres_url) as prod, fresh_database(postgres_url) as proto:
        yield {"prod": prod, "proto": proto}


@pytest.fixture
def ports(databases: dict[str, str], keys: Keys, tmp_path: Path) -> Iterator[Ports]:
    """On a database that the tests share; what a test writes is rolled back after it."""
    with opened(databases[keys.stack], keys, tmp_path) as ports, rehearsal(ports.connection):
        yield ports


@pytest.fixture
def order(tmp_path: Path, stack: str) -> Order:
    prototype = stack == "proto"
    return Order(
        stack=stack,
        purpose="prototype" if prototype else "release",
        flags=Flags(seed=prototype, smoke=prototype, dry_run=prototype),
        submission_id=None if prototype else "sub-1",
        release_window=None if prototype else "202510201000",
        source_revision="4f2a",
        rates_dir=tmp_path / "rates",
    )


def folder_of(bundle: Bundle, tmp_path: Path) -> Path:
    assert bundle.manifest is not None
    return tmp_path / "bundles" / bundle.manifest.checksum


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(order: Order, ports: Ports) -> str:
    with pytest.raises(ApgmsError) as caught:
        build_bundle(order, ports)
    return caught.value.reason


def test_a_bundle_holds_what_its_manifest_binds(
    order: Order, own_ports: Ports, tmp_path: Path
) -> None:
    bundle = build_bundle(order, own_ports)
    assert bundle.built
    assert bundle.failure is None
    folder = folder_of(bundle, tmp_path)
    subprocess.run(["sha256sum", "-c", "manifest.json.sha256"], cwd=folder, check=True)
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), where="-", stack="prod")
    found = contents(folder)
    assert {name: sha256_hex(found[name]) for name in manifest.files} == manifest.files
    others = {"manifest.json", "manifest.json.sha256", "manifest.dsse.json"}
    rates = f"rates/{manifest.rates_version}/rates.bundle.sha256"
    assert set(found) == set(manifest.files) | others | {rates}
    assert contents(tmp_path / "store" / "releases" / manifest.checksum) == found


def test_the_manifest_says_what_is_in_the_tables(
    order: Order, own_ports: Ports, tmp_path: Path
) -> None:
    bundle = build_bundle(order, own_ports)
    manifest = bundle.manifest
    assert manifest is not None
    batches = own_ports.connection.execute(
        "SELECT tax_type, period_id, count(*)::int, sum(final_liability_cents)::bigint"
        " FROM periods GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    assert [
        (one.tax_type, one.period_id, one.count, one.amount_cents) for one in manifest.batches
    ] == batches
    rows = own_ports.connection.execute("SELECT count(*) FROM owa_ledger").fetchone()
    assert rows is not None
    assert manifest.ledger.tree_size == rows[0]
    assert manifest.previous is None
    image = (folder_of(bundle, tmp_path) / "image.jsonl").read_bytes().splitlines()
    assert len(image) == 12
    first = json.loads(image[0])
    assert first["table"] == "periods"
    assert first["columns"]["state"] == "READY_RPT"


def test_a_frozen_bundle_is_taken_as_it_is(order: Order, own_ports: Ports, tmp_path: Path) -> None:
    first = build_bundle(order, own_ports)
    before = contents(tmp_path)
    own_ports.connection.execute("UPDATE periods SET state = 'RELEASED'")
    again = build_bundle(order, own_ports)
    assert again.manifest == first.manifest
    assert (again.built, again.fetched, again.verdict) == (False, [], None)
    assert again.difference[0] == again.difference[1]
    assert contents(tmp_path) == before


def test_another_controller_takes_the_same_bytes(
    order: Order, ports: Ports, tmp_path: Path
) -> None:
    first = folder_of(build_bundle(order, ports), tmp_path)
    elsewhere = dataclasses.replace(ports, local=FolderStore(tmp_path / "elsewhere"))
    bundle = build_bundle(order, elsewhere)
    assert sorted(bundle.fetched) == sorted(contents(first))
    assert contents(tmp_path / "elsewhere" / first.name) == contents(first)


@pytest.mark.parametrize("stack", ["proto"], indirect=True)
def test_without_a_submission_id_the_same_inputs_give_the_same_bundle(
    order: Order, ports: Ports
) -> None:
    first, again = build_bundle(order, ports), build_bundle(order, ports)
    assert first.manifest is not None
    assert first.manifest.submission_id.startswith("prototype-")
    assert first.manifest.flags.dry_run
    assert (again.manifest, again.built) == (first.manifest, False)
    assert again.verdict is not None  # the rows were verified all the same
    ports.connection.execute("UPDATE periods SET basis = 'CASH' WHERE id = 1")
    assert build_bundle(order, ports).built


@pytest.mark.parametrize("stack", ["proto"], indirect=True)
def test_a_prototype_has_no_window_whatever_is_exported(order: Order, ports: Ports) -> None:
    exported = dataclasses.replace(order, release_window="202511251800")
    bundle = build_bundle(exported, ports)
    assert bundle.manifest.release_window is None
    assert not build_bundle(dataclasses.replace(order, release_window=None), ports).built


@pytest.mark.parametrize("stack", ["proto"], indirect=True)
def test_a_publish_task_for_a_dry_run_is_a_failure(order: Order, ports: Ports) -> None:
    bundle = build_bundle(order, ports)
    assert bundle.publish_task is None
    queued = dataclasses.replace(bundle, publish_task="PENDING")
    assert queued.failure is not None
    assert "publish task is queued for a dry run" in queued.failure


@pytest.mark.parametrize(
    "changes",
    [
        {"source_revision": "other"},
        {"release_window": "202510271000"},
        {"approved_rates_version": "1999-00.1"},
        {"purpose": "rehearsal", "flags": Flags(seed=False, smoke=False, dry_run=True)},
    ],
)
def test_a_submission_id_stands_for_one_set_of_inputs(
    order: Order, ports: Ports, changes: dict[str, Any]
) -> None:
    build_bundle(order, ports)
    assert refused(dataclasses.replace(order, **changes), ports) == "bundle.other_inputs"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"submission_id": None}, "bundle.unnamed"),
        ({"release_window": None}, "bundle.unnamed"),
        ({"flags": Flags(seed=False, smoke=False, dry_run=True)}, "flags.forbidden"),
        ({"flags": Flags(seed=True, smoke=False, dry_run=False)}, "flags.forbidden"),
        ({"purpose": "prototype"}, "flags.forbidden"),
        ({"approved_rates_version": "1999-00.1"}, "rates.not_approved"),
        ({"rates_dir": Path("/nonexistent")}, "rates.none_published"),
    ],
)
def test_orders_that_are_refused_change_nothing(
    order: Order, ports: Ports, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    before = contents(tmp_path)
    assert refused(dataclasses.replace(order, **changes), ports) == reason
    assert contents(tmp_path) == before


def test_a_release_without_a_window_says_how_to_name_one(order: Order, ports: Ports) -> None:
    unnamed = dataclasses.replace(order, release_window=None)
    with pytest.raises(ApgmsError, match="Mend: export RELEASE_WINDOW=YYYYMMDDHHMM"):
        build_bundle(unnamed, ports)


def test_a_key_that_the_policy_does_not_pin(order: Order, ports: Ports, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other", "prod").manifest_key
    stranger = dataclasses.replace(ports, manifest_signer=open_signer(str(other), "ecdsa-p256"))
    assert refused(order, stranger) == "signer.unpinned"


def test_an_empty_release_is_none(order: Order, ports: Ports) -> None:
    ports.connection.execute("UPDATE periods SET state = 'RELEASED'")
    assert refused(order, ports) == "bundle.empty"


def test_invalid_rows_leave_nothing_behind(order: Order, ports: Ports, tmp_path: Path) -> None:
    before = contents(tmp_path)
    ports.connection.execute("UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 2")
    bundle = build_bundle(order, ports)
    assert bundle.manifest is None
    assert bundle.failure is not None
    assert "1 of 6 RPT rows" in bundle.failure
    assert contents(tmp_path) == before
    row = ports.connection.execute("SELECT count(*) FROM apgms_release.bundle").fetchone()
    assert row == (0,)


Damage = Callable[[Path], object]


@pytest.mark.parametrize("name", ["image.jsonl", "checkpoint", "ledger/gst.json", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?")],
)
def test_an_altered_store_is_found(
    order: Order, ports: Ports, tmp_path: Path, name: str, damage: Damage
) -> None:
    folder = folder_of(build_bundle(order, ports), tmp_path)
    damage(tmp_path / "store" / "releases" / folder.name / name)
    elsewhere = dataclasses.replace(ports, local=FolderStore(tmp_path / "elsewhere"))
    reason = refused(order, elsewhere)
    assert reason.startswith("manifest." if name == "manifest.json" else "bundle.altered")


def test_an_altered_folder_is_found(order: Order, ports: Ports, tmp_path: Path) -> None:
    folder = folder_of(build_bundle(order, ports), tmp_path)
    (folder / "rpts" / f"GST-{PERIOD}.jsonl").write_bytes(b"{}\n")
    assert refused(order, ports) == "bundle.altered"


def test_a_verdict_of_a_stranger_is_found(order: Order, ports: Ports, tmp_path: Path) -> None:
    folder = folder_of(build_bundle(order, ports), tmp_path)
    policy = dataclasses.replace(ports.policy, manifest_keys={})
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), where="-")
    with pytest.raises(ApgmsError) as caught:
        require_unaltered(ports.store, object_key(folder.name, ""), manifest, policy)
    assert caught.value.reason == "attestation.unpinned_key"


def test_check_mode_predicts_and_leaves_nothing(
    order: Order, own_ports: Ports, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    dry = dataclasses.replace(
        own_ports, store=OverlayStore(own_ports.store), local=OverlayStore(own_ports.local)
    )
    with rehearsal(own_ports.connection):
        predicted = build_bundle(order, dry)
    assert contents(tmp_path) == before
    found = own_ports.connection.execute("SELECT to_regclass('apgms_release.bundle')").fetchone()
    if found != (None,):
        rows = own_ports.connection.execute("SELECT count(*) FROM apgms_release.bundle").fetchone()
        assert rows == (0,)
    real = build_bundle(order, own_ports)
    assert predicted.built
    assert predicted.difference == real.difference


def test_the_second_of_two_builders_takes_the_first_one_s_bundle(
    order: Order, own_ports: Ports, database_url: str, tmp_path: Path
) -> None:
    class Late(FolderStore):
        """Lets another controller freeze its bundle while this one stores its files."""

        done = False

        def put_new(self, key: str, data: bytes | Path) -> bool:
            if key.startswith("releases/") and not self.done:
                self.done = True
                first.append(build_bundle(order, own_ports))
            return super().put_new(key, data)

    first: list[Bundle] = []
    with connect(database_url, None, purpose="second") as connection:
        late = dataclasses.replace(
            own_ports,
            connection=connection,
            store=Late(tmp_path / "store"),
            local=FolderStore(tmp_path / "elsewhere"),
        )
        second = build_bundle(order, late)
    assert second.manifest == first[0].manifest
    assert not second.built


@pytest.mark.parametrize(
    ("expression", "holds"),
    [("batch_total > `0`", True), ("batch_total > `6`", False), ("batchTotal", False)],
)
def test_a_rule_of_the_site_over_the_manifest(
    order: Order, ports: Ports, tmp_path: Path, expression: str, holds: bool
) -> None:
    rules = [SiteRule("size", expression)]
    bundle = build_bundle(dataclasses.replace(order, site_rules=rules), ports)
    assert (bundle.built, bundle.failure is None) == (holds, holds)
    assert (tmp_path / "bundles").exists() == holds
    if not holds:
        assert bundle.failure is not None
        assert "size yields" in bundle.failure


def test_a_rule_that_a_frozen_manifest_breaks_fails_but_changes_nothing(
    order: Order, ports: Ports, tmp_path: Path
) -> None:
    build_bundle(order, ports)
    before = contents(tmp_path)
    rules = [SiteRule("never", "`false`")]
    again = build_bundle(dataclasses.replace(order, site_rules=rules), ports)
    assert again.failure is not None
    assert again.difference[0] == again.difference[1]
    assert contents(tmp_path) == before


def test_the_module_builds_predicts_and_is_idempotent(
    order: Order, own_ports: Ports, keys: Keys, tmp_path: Path
) -> None:
    options = {
        "stack": "prod",
        "flags": {"SEED": 0, "SMOKE": "no", "DRY_RUN": False},
        "submission_id": "sub-1",
        "release_window": "202510201000",
        "source_revision": "4f2a",
        "rates_dir": str(tmp_path / "rates"),
        "bundle_dir": str(tmp_path / "bundles"),
        "manifest_key": str(keys.manifest_key),
        "log_key": str(keys.log_key),
        "database_url": own_ports.connection.info.dsn,
        "object_store": own_ports.store.url,
        "policy": str(tmp_path / "policy" / "policy.json"),
    }
    before = contents(tmp_path)
    predicted = run_module("rpt_verify", options, check=True)
    assert contents(tmp_path) == before
    built = run_module("rpt_verify", options)
    assert predicted["changed"] and built["changed"]
    assert predicted["diff"] == built["diff"]
    assert predicted["verdict"] == built["verdict"]
    assert (built["frozen_before"], built["publish_task"]) == (False, None)
    assert (Path(built["bundle"]) / "manifest.json").exists()
    for check in (True, False):
        again = run_module("rpt_verify", options, check=check)
        assert (again["changed"], again["frozen_before"]) == (False, True)
        assert again["manifest_sha256"] == built["manifest_sha256"]
    own_ports.connection.execute("UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 2")
    failed = run_module("rpt_verify", {**options, "submission_id": "sub-2", "limit": 1})
    assert failed["failed"]
    assert failed["verdict"]["invalid_total"] == 1
    assert failed["verdict"]["invalid"][0]["id"] == "2"
