# GNU General Public License v3.0+ (see COPYING)
"""Archives for auditors: sealed, deterministic, and verified offline; any changed byte is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.attestation import (
    SEAL,
    attest,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.operations_log import (
    entry_line,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Flags
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle import rpt_bundle
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence import evidence
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    publish,
    pull,
)
from services.keys import make_keys, policy_document, write_policy
from services.loader import load
from services.rates.__main__ import SHIPPED
from tests.conftest import ROOT

SCRIPT = ROOT / "roles" / "evidence" / "files" / "verify.sh"
PERIOD = "2025-09"


@dataclasses.dataclass
class Run:
    """A packaged prototype run."""

    folder: Path
    order: evidence.Order
    ports: evidence.Ports
    policy_sha256: str
    packed: evidence.Evidence

    @property
    def archive(self) -> Path:
        return self.folder / "evidence" / self.packed.entry.name


@pytest.fixture(scope="module")
def run(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("evidence")
    keys = make_keys(folder / "keys", "proto")
    store = FolderStore(folder / "store")
    publish(store, SHIPPED)
    pull(store, FolderStore(folder / "rates"), [PERIOD])
    policy_path = write_policy(keys, folder / "policy", policy_document(keys))
    log = folder / "operations.jsonl"
    first = entry_line(None, {"task": "Seed"})
    log.write_bytes(first + b"\n" + entry_line(first, {"task": "Smöke"}) + b"\n")
    with connect(module_database_url, None, purpose="test") as connection:
        load(connection, seed=1, entities=3, periods=[PERIOD], rpt_key=keys.rpt_key)
        policy = load_policy(connection, str(policy_path), "proto")
        signer = open_signer(str(keys.manifest_key), "ecdsa-p256")
        bundle = rpt_bundle.build_bundle(
            rpt_bundle.Order(
                stack="proto",
                purpose="prototype",
                flags=Flags(seed=True, smoke=True, dry_run=True),
                submission_id=None,
                release_window=None,
                source_revision="4f2a",
                rates_dir=folder / "rates",
            ),
            rpt_bundle.Ports(
                connection=connection,
                store=store,
                local=FolderStore(folder / "bundles"),
                policy=policy,
                manifest_signer=signer,
                log_signer=open_signer(str(keys.log_key), "ed25519"),
                clock=DatabaseClock(connection),
            ),
        )
        assert bundle.manifest is not None
        order = evidence.Order("proto", bundle.manifest.checksum, policy_path, SCRIPT, log)
        local = FolderStore(folder / "evidence")
        ports = evidence.Ports(connection, store, local, policy, signer)
        packed = evidence.package(order, ports)
        yield Run(folder, order, ports, policy.digest, packed)


@pytest.fixture
def unpacked(run: Run, tmp_path: Path) -> Path:
    subprocess.run(["tar", "-xf", str(run.archive), "-C", str(tmp_path)], check=True)
    (folder,) = tmp_path.iterdir()
    return folder


def verify(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), *options, str(folder)], capture_output=True, text=True, check=False
    )


def test_the_archive_is_verified_with_stock_tools(run: Run, unpacked: Path) -> None:
    done = verify(unpacked, "--policy", run.policy_sha256)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASS: ")
    assert run.order.checksum in done.stdout
    assert run.policy_sha256 in done.stdout
    own = subprocess.run(["./verify.sh"], cwd=unpacked, capture_output=True, text=True, check=False)
    assert own.stdout == done.stdout


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    done = verify(tmp_path / "misspelt")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == f"FAIL: cannot enter {tmp_path}/misspelt\n"


def test_it_holds_the_bundle_and_what_it_is_checked_with(run: Run, unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert names >= {
        "manifest.json", "manifest.dsse.json", f"rpts/GST-{PERIOD}.jsonl", "ledger/paygw.json",
        "checkpoint", "image.jsonl", "journal.jsonl", "operations.jsonl", "policy.json",
        "seal.dsse.json", "verify.sh", "policy/policy.json.auditor.sig",
    }  # fmt: skip
    assert (unpacked / "operations.jsonl").read_bytes() == (
        run.folder / "operations.jsonl"
    ).read_bytes()


def flip(path: Path) -> bytes:
    """Change a bit in the middle of a file; return what it was."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    return data


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    "name", ["manifest.json", f"rpts/GST-{PERIOD}.jsonl", "policy.json", "seal.dsse.json"]
)
def test_a_changed_byte_is_found_and_its_file_named(unpacked: Path, name: str) -> None:
    flip(unpacked / name)
    done = verify(unpacked)
    assert done.returncode == 1
    assert f"FAIL {name}: " in done.stdout


@pytest.mark.slow
def test_a_changed_byte_in_any_file_is_found_and_the_file_named(unpacked: Path) -> None:
    names = [name for name in files_of(unpacked) if (unpacked / name).stat().st_size]
    assert len(names) > 15
    for name in names:
        data = flip(unpacked / name)
        done = verify(unpacked)
        assert done.returncode == 1, name
        assert f"FAIL {name}: " in done.stdout, done.stdout
        (unpacked / name).write_bytes(data)
    assert verify(unpacked).returncode == 0


def reseal(run: Run, folder: Path) -> None:
    """Seal a folder anew, as somebody could who has the manifest key."""
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files_of(folder)
        if name != "seal.dsse.json"
    }
    predicate = {"manifest_sha256": run.order.checksum, "number": 1, "previous_sha256": None}
    signer = run.ports.signer
    seal = attest(digests, SEAL, predicate, signer.key_id, signer.sign)
    (folder / "seal.dsse.json").write_bytes(seal)


@pytest.mark.slow
def test_what_is_sealed_anew_without_a_change_passes(run: Run, unpacked: Path) -> None:
    reseal(run, unpacked)
    assert verify(unpacked).returncode == 0


LINKED = [
    "manifest.json", "manifest.json.sha256", "manifest.dsse.json", "image.jsonl", "checkpoint",
    "ledger_hashes.json", "ledger/gst.json", f"rpts/PAYGW-{PERIOD}.jsonl", "operations.jsonl",
    "policy/policy.json.auditor.sig", "RATES/catalog.json", "RATES/rates.bundle.sha256",
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in LINKED[1:]] + LINKED[:1]
)
def test_links_hold_even_against_the_holder_of_the_manifest_key(
    run: Run, unpacked: Path, name: str
) -> None:
    (rates,) = (unpacked / "rates").iterdir()
    name = name.replace("RATES", f"rates/{rates.name}")
    flip(unpacked / name)
    reseal(run, unpacked)
    done = verify(unpacked)
    assert done.returncode == 1
    assert f"FAIL {name}: " in done.stdout, done.stdout


def test_a_policy_that_is_none_is_named(run: Run, unpacked: Path) -> None:
    (unpacked / "policy.json").write_text("[]")
    reseal(run, unpacked)
    assert "FAIL policy.json: " in verify(unpacked).stdout


def test_an_archive_costs_few_processes(unpacked: Path, tmp_path: Path) -> None:
    """Starting jq is what verification spends its time on: twice, however many files there are."""
    tools = tmp_path / "counted"
    tools.mkdir()
    (tools / "jq").write_text(f'#!/bin/sh\necho >>{tools}/runs\nexec {shutil.which("jq")} "$@"\n')
    (tools / "jq").chmod(0o755)
    done = subprocess.run(
        ["sh", str(SCRIPT), str(unpacked)],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert (tools / "runs").read_text() == "\n" * 2


def test_a_token_that_its_issuer_did_not_sign(run: Run, unpacked: Path) -> None:
    """Whoever holds the manifest key still cannot make an RPT up."""
    file = unpacked / f"rpts/GST-{PERIOD}.jsonl"
    first, second, *rest = file.read_bytes().splitlines(keepends=True)
    swapped = {**json.loads(first), "signature": json.loads(second)["signature"]}
    file.write_bytes(b"".join([canonical(swapped) + b"\n", second, *rest]))
    document = json.loads((unpacked / "manifest.json").read_bytes())
    document["batches"][0]["rpt_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (unpacked / "manifest.json").write_bytes(canonical(document))
    reseal(run, unpacked)
    found = verify(unpacked).stdout
    assert f"FAIL rpts/GST-{PERIOD}.jsonl: the signature of its first token" in found


def test_missing_and_foreign_files_are_named(unpacked: Path) -> None:
    (unpacked / "image.jsonl").unlink()
    (unpacked / "notes.txt").write_text("trust me")
    done = verify(unpacked)
    assert done.returncode == 1
    assert "FAIL image.jsonl: " in done.stdout
    assert "FAIL notes.txt: it was not sealed" in done.stdout


@pytest.mark.parametrize("name", ["seal.dsse.json", "policy.json"])
def test_without_seal_or_policy_it_proves_nothing(unpacked: Path, name: str) -> None:
    (unpacked / name).unlink()
    assert verify(unpacked).returncode == 1


def test_another_policy_than_the_pinned_one(unpacked: Path) -> None:
    done = verify(unpacked, "--policy", "0" * 64)
    assert done.returncode == 1
    assert "FAIL policy.json: " in done.stdout


def test_packaging_again_changes_nothing(run: Run) -> None:
    before = run.archive.read_bytes()
    with (run.folder / "operations.jsonl").open("ab") as log:
        last = (run.folder / "operations.jsonl").read_bytes().splitlines()[-1]
        log.write(entry_line(last, {"task": "Package"}) + b"\n")
    again = evidence.package(run.order, run.ports)
    assert (again.changed, again.entry) == (False, run.packed.entry)
    assert again.before == again.after
    assert run.archive.read_bytes() == before


def test_another_controller_fetches_the_archive(run: Run, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(run.ports, local=FolderStore(tmp_path))
    again = evidence.package(run.order, elsewhere)
    assert (again.built, again.fetched) == (False, True)
    assert (tmp_path / again.entry.name).read_bytes() == run.archive.read_bytes()


def test_what_happens_later_goes_into_an_archive_that_names_the_first(
    run: Run, tmp_path: Path
) -> None:
    ports = dataclasses.replace(
        run.ports, store=OverlayStore(run.ports.store), local=FolderStore(tmp_path / "local")
    )
    with rehearsal(ports.connection):
        journal = Journal(ports.connection, ports.store, "proto", DatabaseClock(ports.connection))
        journal.record("prototype.withdrawn", {"why": "wrong rates"}, run.order.checksum)
        later = evidence.package(run.order, ports)
    assert (later.entry.number, later.built) == (2, True)
    assert later.entry.previous_sha256 == run.packed.entry.archive_sha256
    archive = tmp_path / "local" / later.entry.name
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(tmp_path / "unpacked")], check=True)
    (folder,) = (tmp_path / "unpacked").iterdir()
    assert not (folder / "manifest.json").exists()
    done = verify(folder, "--policy", run.policy_sha256)
    assert done.returncode == 0, done.stdout
    assert f"archive 2 after {run.packed.entry.archive_sha256}" in done.stdout
    lines = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(lines.replace(b"wrong", b"right"))
    assert "FAIL journal.jsonl: " in verify(folder).stdout


def test_check_mode_leaves_nothing(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "evidence")
    before = sorted(tmp_path.rglob("*"))
    ports = dataclasses.replace(
        run.ports,
        store=OverlayStore(FolderStore(tmp_path / "store")),
        local=OverlayStore(FolderStore(tmp_path / "local")),
    )
    with rehearsal(ports.connection):
        predicted = evidence.package(run.order, ports)
    assert predicted.built
    assert sorted(tmp_path.rglob("*")) == before


def test_an_altered_bundle_is_not_packaged(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder / "store", tmp_path / "store")
    (tmp_path / "store" / "releases" / run.order.checksum / "image.jsonl").write_bytes(b"")
    ports = dataclasses.replace(run.ports, store=FolderStore(tmp_path / "store"))
    with pytest.raises(ApgmsError) as caught:
        evidence.package(run.order, ports)
    assert caught.value.reason == "bundle.altered"
