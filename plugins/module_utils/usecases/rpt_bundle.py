# GNU General Public License v3.0+ (see COPYING)
"""Verify the RPT rows and build the bundle of a release, once per submission id."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..domain.attestation import VERDICT, attest, verdict_predicate
from ..domain.canonical import canonical, sha256_hex
from ..domain.flags import require_lawful
from ..domain.manifest import Flags, Ledger, Manifest, Previous, object_key
from ..domain.policy import Policy
from ..domain.rates import CATALOG_NAME, HASH_NAME, Catalog
from ..domain.statement import Signed
from ..errors import ApgmsError
from ..ports.clock import Clock, iso_utc
from ..ports.object_store import ObjectStore
from ..ports.schema.migrate import migrate
from ..ports.signer import Signer
from ..version import VERSION
from .approvals import consume
from .batch_writer import BatchWriter
from .bundle_files import (
    ATTESTATION,
    CHECKSUM,
    MANIFEST,
    checksum_file,
    fetch,
    publish,
    require_unaltered,
    write_files,
)
from .image import write_image
from .ledger_rows import one_view
from .manifests import load_manifest
from .rates import newest_kept
from .rehearsal import require_permit
from .rpt_verify import LIMIT, RptVerdict, candidate_periods, verify_rows
from .snapshot import Snapshot, take_snapshot
from .steps import Steps

if TYPE_CHECKING:
    from ..ports.database import Connection


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Without a ``submission_id`` one is derived from what goes in, so that the same rows, rates and
    revision give the same bundle; a release names its own.
    """

    stack: str
    purpose: str
    """``prototype``, ``release`` or ``rehearsal``."""
    flags: Flags
    submission_id: str | None
    release_window: str | None
    source_revision: str
    rates_dir: Path
    approved_rates_version: str | None = None
    limit: int = LIMIT
    statements_dir: str = ""
    """Where the signed permit of a rehearsal is looked for."""
    operator: str | None = None
    """Who rehearses: his own signature permits nothing."""


@dataclass(frozen=True)
class Ports:
    """What building a bundle works with."""

    connection: Connection
    store: ObjectStore
    local: ObjectStore
    """The bundle folder of this controller; an overlay of it in check mode."""
    policy: Policy
    manifest_signer: Signer
    log_signer: Signer
    clock: Clock
    steps: Steps = field(default_factory=Steps)


@dataclass(frozen=True)
class Bundle:
    """A bundle, or the verdict that stands in its way.

    ``manifest`` is None exactly where rows are invalid; ``verdict`` is None where a frozen bundle
    was taken as it is. ``fetched`` names the files that this controller lacked.
    """

    manifest: Manifest | None
    verdict: RptVerdict | None
    built: bool
    fetched: list[str]
    publish_task: str | None
    """The state of the manifest's release, where one is queued or was sent."""

    @property
    def failure(self) -> str | None:
        """What the verdict is where the bundle must not be used."""
        if self.manifest is None and self.verdict is not None:
            return self.verdict.failure
        if self.manifest is not None and self.manifest.flags.dry_run and self.publish_task:
            return (
                f"A publish task is queued for a dry run. Where: manifest {self.manifest.checksum},"
                f" state {self.publish_task}. Why: a dry run never sends. Mend: engage the kill"
                " switch and find out who queued it"
            )
        return None

    @property
    def difference(self) -> tuple[Any, Any]:
        """What stood before and after; equal exactly where nothing was changed."""
        if self.built and self.manifest is not None:
            document = self.manifest.document()
            shown = ("submission_id", "purpose", "rates_version", "batches", "amount_total_cents")
            return {}, {name: document[name] for name in shown}
        return {"missing here": self.fetched}, {"missing here": []}


def build_bundle(order: Order, ports: Ports) -> Bundle:
    """Build the bundle of ``order``, or take the one that is frozen under its submission id.

    :raises ApgmsError: ``flags.forbidden``, ``signer.unpinned``, ``bundle.unnamed``,
        ``bundle.empty``, ``bundle.other_inputs``, ``bundle.altered``, ``rates.not_approved``,
        ``rates.*``, ``approval.waiting`` for a rehearsal without a permit, ``database.*``,
        ``object_store.*``
    """
    require_lawful(order.stack, order.purpose, order.flags, where="apgms_flags")
    _require_named(order)
    _require_pinned(ports)
    migrate(ports.connection)
    if order.submission_id:
        frozen = _frozen(ports.connection, order.submission_id)
        if frozen:
            return _resume(order, ports, frozen, None)
    permit = _permit(order, ports)
    with tempfile.TemporaryDirectory(prefix="apgms-bundle-") as staging:
        return _build(order, ports, Path(staging), permit)


def publish_task(connection: Connection, checksum: str) -> str | None:
    """Return the state of the manifest's release; None where none is queued and none was sent."""
    row = connection.execute(
        "SELECT state FROM apgms_release.release WHERE manifest_sha256 = %s", [checksum]
    ).fetchone()
    return str(row[0]) if row else None


def _permit(order: Order, ports: Ports) -> list[Signed]:
    if order.purpose != "rehearsal":
        return []
    return require_permit(
        ports.connection,
        ports.policy,
        order.statements_dir,
        submission_id=str(order.submission_id),
        source_revision=order.source_revision,
        operator=order.operator,
        now=ports.clock.now(),
    )


def _build(order: Order, ports: Ports, staging: Path, permit: list[Signed]) -> Bundle:
    catalog = _catalog(order, candidate_periods(ports.connection))
    writer = BatchWriter(staging)
    now = ports.clock.now()
    with one_view(ports.connection):
        verdict = verify_rows(
            ports.connection, ports.policy, now, catalog.rates_version,
            sink=writer.write, limit=order.limit,
        )  # fmt: skip
        writer.close()
        with (staging / "image.jsonl").open("wb") as out:
            image_sha256 = write_image(ports.connection, out)
    if verdict.invalid_total:
        return Bundle(None, verdict, False, [], None)
    _require_rows(verdict)
    submission_id = order.submission_id or _derived_id(order, catalog, image_sha256)
    frozen = _frozen(ports.connection, submission_id)
    if frozen:
        return _resume(order, ports, frozen, verdict)
    snapshot = take_snapshot(
        ports.connection, ports.store, ports.log_signer, ports.policy, ports.clock
    )
    manifest = Manifest(
        stack=order.stack,
        purpose=order.purpose,
        flags=order.flags,
        built_at=iso_utc(now),
        release_window=order.release_window or None,
        submission_id=submission_id,
        rates_version=catalog.rates_version,
        rates_bundle_sha256=catalog.bundle_sha256,
        batches=tuple(writer.batches(_digests(snapshot.namespaces))),
        ledger=_ledger(snapshot),
        image_sha256=image_sha256,
        previous=_previous(ports, order.stack),
        collection_version=VERSION,
        source_revision=order.source_revision,
    )
    signature = attest(
        {MANIFEST: manifest.checksum},
        VERDICT,
        verdict_predicate(manifest, verdict.summary()),
        ports.manifest_signer.key_id,
        ports.manifest_signer.sign,
    )
    write_files(
        staging,
        _ledger_files(snapshot)
        | _rates_files(catalog)
        | {
            MANIFEST: manifest.to_bytes(),
            CHECKSUM: checksum_file(manifest.checksum),
            ATTESTATION: signature,
        },
    )
    return _freeze(order, ports, staging, manifest, verdict, permit)


def _freeze(
    order: Order,
    ports: Ports,
    staging: Path,
    manifest: Manifest,
    verdict: RptVerdict,
    permit: list[Signed],
) -> Bundle:
    checksum = manifest.checksum
    ports.steps.run("bundle.put", lambda: publish(staging, ports.store, object_key(checksum, "")))
    frozen = ports.steps.run("bundle.freeze", lambda: _insert(ports.connection, manifest, permit))
    if frozen != checksum:  # another run was faster: its bundle stands
        return _resume(order, ports, frozen, verdict)
    publish(staging, ports.local, f"{checksum}/")
    return Bundle(manifest, verdict, True, [], publish_task(ports.connection, checksum))


def _resume(order: Order, ports: Ports, checksum: str, verdict: RptVerdict | None) -> Bundle:
    manifest = load_manifest(ports.store, checksum, order.stack)
    _require_same_inputs(order, manifest)
    fetched = fetch(ports.store, object_key(checksum, ""), ports.local, f"{checksum}/")
    require_unaltered(ports.local, f"{checksum}/", manifest, ports.policy)
    return Bundle(manifest, verdict, False, fetched, publish_task(ports.connection, checksum))


def _frozen(connection: Connection, submission_id: str) -> str | None:
    row = connection.execute(
        "SELECT manifest_sha256 FROM apgms_release.bundle WHERE submission_id = %s",
        [submission_id],
    ).fetchone()
    return str(row[0]) if row else None


def _insert(connection: Connection, manifest: Manifest, permit: list[Signed]) -> str:
    """Freeze the manifest; return the checksum that is now frozen under its submission id."""
    with connection.transaction():
        frozen = connection.execute(
            "INSERT INTO apgms_release.bundle (submission_id, stack, purpose, manifest_sha256)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (submission_id) DO NOTHING",
            [manifest.submission_id, manifest.stack, manifest.purpose, manifest.checksum],
        )
        if frozen.rowcount:
            consume(connection, permit, manifest.checksum)
    return str(_frozen(connection, manifest.submission_id))


def _catalog(order: Order, period_ids: list[str]) -> Catalog:
    catalog = newest_kept(order.rates_dir, period_ids)
    approved = order.approved_rates_version
    if approved and catalog.rates_version != approved:
        raise ApgmsError(
            "rates.not_approved",
            "The rates are not those of the approved prototype run",
            where=str(order.rates_dir / catalog.rates_version),
            why=f"rates_version is {catalog.rates_version}; audit approved {approved}",
            mend="make proto-release, have its manifest approved by audit, then run this again",
        )
    return catalog


def _derived_id(order: Order, catalog: Catalog, image_sha256: str) -> str:
    inputs = [
        image_sha256, catalog.bundle_sha256, order.source_revision, VERSION,
        order.flags.seed, order.flags.smoke,
    ]  # fmt: skip
    return f"{order.purpose}-{sha256_hex(canonical(inputs))[:16]}"


def _previous(ports: Ports, stack: str) -> Previous | None:
    row = ports.connection.execute(
        "SELECT manifest_sha256 FROM apgms_release.release"
        " WHERE state IN ('ACKNOWLEDGED', 'PARTIAL') ORDER BY journal_seq DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    before = load_manifest(ports.store, str(row[0]), stack)
    return Previous(before.checksum, before.ledger.tree_size)


def _ledger(snapshot: Snapshot) -> Ledger:
    return Ledger(
        origin=snapshot.origin,
        tree_size=snapshot.tree_size,
        root=snapshot.root.hex(),
        checkpoint_sha256=sha256_hex(snapshot.checkpoint),
        hashes_sha256=sha256_hex(snapshot.ledger_hashes),
        namespaces=_digests(snapshot.namespaces),
    )


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256_hex(data) for name, data in files.items()}


def _ledger_files(snapshot: Snapshot) -> dict[str, bytes]:
    return {
        "checkpoint": snapshot.checkpoint,
        "ledger_hashes.json": snapshot.ledger_hashes,
        **{f"ledger/{name}.json": data for name, data in snapshot.namespaces.items()},
    }


def _rates_files(catalog: Catalog) -> dict[str, bytes]:
    folder = f"rates/{catalog.rates_version}"
    return {
        f"{folder}/{CATALOG_NAME}": catalog.data,
        f"{folder}/{HASH_NAME}": catalog.hash_file,
    }


def _require_named(order: Order) -> None:
    needed = {"release": ("submission_id", "release_window"), "rehearsal": ("submission_id",)}
    missing = [name for name in needed.get(order.purpose, ()) if not getattr(order, name)]
    if missing:
        raise ApgmsError(
            "bundle.unnamed",
            f"A {order.purpose} must be named before its bundle is built",
            where=" and ".join(f"apgms_{name}" for name in missing),
            why="a production bundle is frozen under its submission id, a release for its window",
            mend="set apgms_submission_id in the inventory and RELEASE_WINDOW=YYYYMMDDHHMM",
        )


def _require_pinned(ports: Ports) -> None:
    signer = ports.manifest_signer
    if signer.key_id not in ports.policy.manifest_keys:
        raise ApgmsError(
            "signer.unpinned",
            "The manifest key is not one of this stack",
            where="apgms_manifest_key",
            why=f"its key id is {signer.key_id}; the policy pins"
            f" {', '.join(sorted(ports.policy.manifest_keys)) or 'none'}",
            mend="name the manifest key of this stack, or pin this one in a signed policy",
        )


def _require_rows(verdict: RptVerdict) -> None:
    if verdict.total == 0:
        raise ApgmsError(
            "bundle.empty",
            "There is nothing to release",
            where="tables periods and rpt_tokens",
            why="no period in READY_RPT has an RPT; usable RPTs of periods in other states:"
            f" {verdict.left_out or 'none'}",
            mend="let APGMS close the periods and issue RPTs; on proto: make seed STACK=proto",
        )


def _require_same_inputs(order: Order, manifest: Manifest) -> None:
    wanted = {
        "purpose": (order.purpose, manifest.purpose),
        "flags": (order.flags, manifest.flags),
        "release_window": (order.release_window or None, manifest.release_window),
        "source_revision": (order.source_revision, manifest.source_revision),
        "rates_version": (
            order.approved_rates_version or manifest.rates_version,
            manifest.rates_version,
        ),
    }
    differing = [f"{name}: asked {a}, frozen {b}" for name, (a, b) in wanted.items() if a != b]
    if differing:
        raise ApgmsError(
            "bundle.other_inputs",
            "The submission id stands for another bundle, which is frozen",
            where=f"apgms_submission_id {manifest.submission_id}",
            why="; ".join(differing),
            mend="give the new release a submission id of its own, or put the old inputs back",
        )
