# GNU General Public License v3.0+ (see COPYING)
"""The approval modules as Ansible runs them: prediction, diff, and the one message of a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approvals import (
    consume,
    require_approvals,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from services.keys import Keys, make_keys, policy_document, write_policy
from tests.approvals import run_of
from tests.bundles import put_bundle, store_in
from tests.module_process import run_module


@dataclass(frozen=True)
class Site:
    """A prod stack with one bundle, and what the modules are told of it."""

    keys: Keys
    folder: Path
    manifest: Manifest
    database_url: str

    @property
    def common(self) -> dict[str, Any]:
        return {
            "stack": "prod",
            "object_store": f"file://{self.folder}/object-store",
            "policy": str(self.folder / "policy.json"),
        }

    @property
    def statements(self) -> str:
        return str(self.folder / "statements")

    def verify(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        options = {
            **self.common,
            "database_url": self.database_url,
            "statements": self.statements,
            "operator": "operator",
            "manifest": self.manifest.checksum,
        }
        return run_module("approval_verify", {**options, **changes}, check=check)

    def sign(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        options = {
            **self.common,
            "statements": self.statements,
            "signer": "auditor",
            "key": str(self.keys.person("auditor")),
            "manifest": self.manifest.checksum,
            "confirm": self.manifest.checksum,
        }
        return run_module("approval_sign", {**options, **changes}, check=check)


@pytest.fixture
def site(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Site:
    keys = make_keys(tmp_path_factory.getbasetemp() / "keys", "prod")
    write_policy(keys, tmp_path, policy_document(keys))
    return Site(keys, tmp_path, put_bundle(store_in(tmp_path), keys), database_url)


def approve_prototype(site: Site, tmp_path: Path) -> None:
    """Approve a proto run of the same revision, as its own stack does."""
    proto = make_keys(site.keys.folder, "proto")
    folder = tmp_path / "proto"
    write_policy(proto, folder, policy_document(proto))
    flags = {"seed": False, "smoke": False, "dry_run": True}
    run = put_bundle(
        store_in(folder),
        proto,
        purpose="prototype",
        release_window=None,
        flags=type(site.manifest.flags)(**flags),
    )
    done = site.sign(
        stack="proto",
        object_store=f"file://{folder}/object-store",
        policy=str(folder / "policy.json"),
        manifest=run.checksum,
        confirm=run.checksum,
    )
    assert done["changed"], done


def test_from_waiting_to_released(site: Site, tmp_path: Path) -> None:
    waiting = site.verify(inventory="inventories/site")
    command = (
        f"-i inventories/site playbooks/approve.yml -e approve_manifest={site.manifest.checksum}"
    )
    assert waiting["reason"] == "approval.waiting"
    assert command in waiting["msg"]
    approve_prototype(site, tmp_path)
    _sign_once(site)
    _pin_once(site)
    _use_up(site)
    resumed = site.verify()
    assert resumed["used"]
    assert [one["signer"] for one in resumed["approvals"]] == ["auditor"]


def _sign_once(site: Site) -> None:
    predicted = site.sign(check=True)
    assert sorted(path.name[:9] for path in Path(site.statements).glob("*.json")) == ["prototype"]
    signed = site.sign()
    assert (predicted["changed"], predicted["diff"]) == (signed["changed"], signed["diff"])
    assert set(signed["entry"]) == {Path(signed["path"]).name, f"{Path(signed['path']).name}.sig"}
    again = site.sign(confirm=None)
    assert (again["changed"], again["path"]) == (False, signed["path"])


def _pin_once(site: Site) -> None:
    predicted, done, again = site.verify(check=True), site.verify(), site.verify()
    assert [one["kind"] for one in done["approvals"]] == ["prototype", "release"]
    assert [result["changed"] for result in (predicted, done, again)] == [True, True, False]
    assert predicted["diff"] == done["diff"]
    assert done["diff"]["before"] is None
    assert done["policy"] == again["policy"]
    assert done["policy"]["trust"] == "first use"


def _use_up(site: Site) -> None:
    """Consume the approvals as the release does when it commits its intent."""
    with connect(site.database_url, None, purpose="test") as connection:
        policy = load_policy(connection, site.common["policy"], "prod")
        now = DatabaseClock(connection).now()
        approvals = require_approvals(
            connection, policy, site.statements, site.manifest, "operator", now
        )
        with connection.transaction():
            consume(connection, approvals, site.manifest.checksum)


def test_review_shows_what_would_be_signed(site: Site) -> None:
    shown = run_module("approval_review", {**site.common, "manifest": site.manifest.checksum})
    assert shown["failed_checks"] == []
    assert shown["confirmation"] == site.manifest.checksum
    assert shown["subject"] == {
        "manifest_sha256": site.manifest.checksum,
        **run_of(site.manifest),
    }
    assert any("PAYGW 2025-09 recomputed" in line for line in shown["checks"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"manifest": "ab" * 32}, "manifest.unknown"),
        ({"stack": "proto"}, "policy.other_stack"),
        ({"operator": "auditor"}, "approval.unknown_operator"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_one_message(site: Site, changes: dict[str, str], reason: str) -> None:
    failed = site.verify(**changes)
    assert failed["reason"] == reason
    assert all(part in failed["msg"] for part in ("Where: ", "Why: ", "Mend: "))
