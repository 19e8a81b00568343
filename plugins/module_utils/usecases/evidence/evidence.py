# GNU General Public License v3.0+ (see COPYING)
"""Package what an auditor needs to believe a run: one sealed archive, later ones that name it.

``docs/bundle.md`` describes the archive.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.formats.archive import Member, write_archive
from ...domain.formats.attestation import SEAL, attest
from ...domain.formats.canonical import canonical, parse_canonical, sha256_hex
from ...domain.release.manifest import Manifest, object_key
from ...domain.release.release_state import State
from ...errors import ApgmsError
from ...ports.folder_store import FolderStore
from ...ports.object_store import ObjectStore, read
from ...ports.schema.migrate import migrate
from ...ports.signer import Signer
from ..acts.steps import Steps
from ..bundle.files import copy_object, fetch, file_sha256, require_unaltered, write_files
from ..bundle.manifests import load_manifest
from ..release.records import find
from .facts import facts_of
from .operations_log import read_log

if TYPE_CHECKING:
    from ...ports.database import Connection

SCHEMA = "apgms.release/evidence/1"
SEAL_NAME = "seal.dsse.json"
SCRIPT = "verify.sh"


@dataclass(frozen=True)
class Order:
    """What is to be packaged. ``operations_log`` is the file that the callback writes."""

    stack: str
    checksum: str
    policy_path: Path
    verify_script: Path
    operations_log: Path | None


@dataclass(frozen=True)
class Ports:
    """What packaging works with; ``local`` keeps the archives on this controller."""

    connection: Connection
    store: ObjectStore
    local: ObjectStore
    policy: Policy
    signer: Signer
    steps: Steps = field(default_factory=Steps)


@dataclass(frozen=True)
class Entry:
    """An archive in the list of those of one manifest, the first has number 1."""

    number: int
    archive_sha256: str
    facts_sha256: str
    """Over journal, receipt and approvals: what makes a later archive necessary."""
    previous_sha256: str | None

    @property
    def name(self) -> str:
        """The name of the archive's file."""
        return f"{self.archive_sha256}.tar"


@dataclass(frozen=True)
class Evidence:
    """The newest archive of a run, and whether this call made it or fetched it."""

    checksum: str
    entry: Entry
    state: str | None
    built: bool
    fetched: bool

    @property
    def changed(self) -> bool:
        """Whether anything was written, here or in the object store."""
        return self.built or self.fetched

    @property
    def key(self) -> str:
        """The archive's key in the object store."""
        return _key(self.checksum, self.entry.name)

    @property
    def before(self) -> dict[str, Any]:
        """What stood before; equal to :attr:`after` exactly where nothing was changed."""
        number = self.entry.number - self.built
        return {"archives": number, "here": number if not self.changed else None}

    @property
    def after(self) -> dict[str, Any]:
        """What stands now."""
        return {"archives": self.entry.number, "here": self.entry.number}


def package(order: Order, ports: Ports) -> Evidence:
    """Seal and store the archive of a run, or take the one that still tells everything.

    :raises ApgmsError: ``evidence.not_sealed``, ``bundle.altered``, ``manifest.*``, ``policy.*``,
        ``operations_log.*``, ``object_store.*``
    """
    migrate(ports.connection)
    manifest = load_manifest(ports.store, order.checksum, order.stack)
    state = _require_over(ports.connection, manifest)
    require_unaltered(ports.store, object_key(order.checksum, ""), manifest, ports.policy)
    facts = facts_of(ports.connection, manifest.checksum)
    facts_sha256 = sha256_hex(canonical({name: sha256_hex(data) for name, data in facts.items()}))
    entries = _entries(ports.store, order.checksum)
    if entries and entries[-1].facts_sha256 == facts_sha256:
        fetched = _fetch(ports, order.checksum, entries[-1])
        return Evidence(order.checksum, entries[-1], state, False, fetched)
    with tempfile.TemporaryDirectory(prefix="apgms-evidence-") as name:
        work = Path(name)
        write_files(work / "files", facts | _context_files(order, ports.policy))
        if not entries:
            bundle = object_key(order.checksum, "")
            fetch(ports.store, bundle, FolderStore(work), "files/")
        entry = _seal(order, ports, manifest, work, entries, facts_sha256, state)
    return Evidence(order.checksum, entry, state, True, False)


def _seal(
    order: Order,
    ports: Ports,
    manifest: Manifest,
    work: Path,
    entries: list[Entry],
    facts_sha256: str,
    state: str | None,
) -> Entry:
    files = _files(work / "files")
    number = len(entries) + 1
    previous = entries[-1].archive_sha256 if entries else None
    predicate = {
        "stack": manifest.stack,
        "purpose": manifest.purpose,
        "submission_id": manifest.submission_id,
        "manifest_sha256": manifest.checksum,
        "state": state,
        "number": number,
        "previous_sha256": previous,
    }
    digests = {name: file_sha256(path) for name, path in files.items()}
    seal = attest(digests, SEAL, predicate, ports.signer.key_id, ports.signer.sign)
    write_files(work / "files", {SEAL_NAME: seal})
    archive = work / "archive.tar"
    with archive.open("wb") as out:
        _write(out, f"{manifest.stack}-{manifest.checksum[:12]}-{number}", _files(work / "files"))
    entry = Entry(number, file_sha256(archive), facts_sha256, previous)
    ports.steps.run(
        "evidence.put",
        lambda: ports.store.put_new(_key(manifest.checksum, entry.name), archive),
    )
    ports.steps.run(
        "evidence.list",
        lambda: ports.store.put_new(
            _key(manifest.checksum, f"{number:04d}.json"),
            canonical({"schema": SCHEMA, **vars(entry)}),
        ),
    )
    ports.local.put_new(entry.name, archive)
    return entry


def _write(out: IO[bytes], folder: str, files: dict[str, Path]) -> None:
    write_archive(
        out,
        (
            Member(
                f"{folder}/{name}",
                path.stat().st_size,
                _opener(path),
                executable=name == SCRIPT,
            )
            for name, path in files.items()
        ),
    )


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _files(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _context_files(order: Order, policy: Policy) -> dict[str, bytes]:
    """Return what the facts are checked with, and the operations log so far."""
    files = {
        "policy.json": canonical(policy.document),
        SCRIPT: order.verify_script.read_bytes(),
    }
    for path in sorted(order.policy_path.parent.glob("policy.json.*.sig")):
        files[f"policy/{path.name}"] = path.read_bytes()
    if order.operations_log is not None:
        files["operations.jsonl"] = read_log(order.operations_log)[1]
    return files


def _require_over(connection: Connection, manifest: Manifest) -> str | None:
    release = find(connection, manifest.checksum)
    if manifest.purpose != "release":
        return release.state if release else None
    if release is None or not State(release.state).terminal:
        raise ApgmsError(
            "evidence.not_sealed",
            "The evidence of a release is sealed when the authority has answered",
            where=f"manifest {manifest.checksum}",
            why=f"its state is {release.state if release else 'not sent'}",
            mend="make release STACK=prod  # then make package STACK=prod",
        )
    return release.state


def _entries(store: ObjectStore, checksum: str) -> list[Entry]:
    keys = [key for key in store.keys(_key(checksum, "")) if key.endswith(".json")]
    return [_entry(read(store, key)) for key in keys]


def _entry(data: bytes) -> Entry:
    document: dict[str, Any] = parse_canonical(data)
    return Entry(**{name: value for name, value in document.items() if name != "schema"})


def _fetch(ports: Ports, checksum: str, entry: Entry) -> bool:
    if entry.name in ports.local.keys(entry.name):
        return False
    copy_object(ports.store, _key(checksum, entry.name), ports.local, entry.name)
    return True


def _key(checksum: str, name: str) -> str:
    return f"evidence/{checksum}/{name}"
