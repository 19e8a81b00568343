# GNU General Public License v3.0+ (see COPYING)
"""Verify the RPT rows and build the bundle of a release, once per submission id."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...domain.approval.flags import require_lawful
from ...domain.approval.statement import Signed
from ...domain.formats.attestation import VERDICT, attest, verdict_predicate
from ...domain.formats.canonical import canonical, sha256_hex
from ...domain.formats.site_rules import SiteVerdict, apply_site_rules
from ...domain.release.manifest import Ledger, Manifest, Previous, object_key
from ...domain.tax.rates import CATALOG_NAME, HASH_NAME, Catalog
from ...ports.clock import iso_utc
from ...ports.schema.migrate import migrate
from ...ports.signer import Signer
from ...version import VERSION
from ..approvals.approvals import consume
from ..ledger.rows import one_view
from ..ledger.snapshot import Snapshot, take_snapshot
from .batch_writer import BatchWriter
from .files import (
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
from .manifests import load_manifest
from .order import (
    Order,
    Ports,
    approved_catalog,
    require_named,
    require_pinned,
    require_rows,
    require_same_inputs,
)
from .rehearsal import require_permit
from .rpt_verify import RptVerdict, candidate_periods, verify_rows

if TYPE_CHECKING:
    from ...ports.database import Connection

SITE_RULES = "rpt_bundle_site_rules"


@dataclass(frozen=True)
class Bundle:
    """A bundle, or the verdict that stands in its way.

    ``manifest`` is None where rows are invalid or a rule of the site is broken, and nothing was
    frozen; ``verdict`` is None where a frozen bundle was taken as it is. ``fetched`` names the
    files that this controller lacked.
    """

    manifest: Manifest | None
    verdict: RptVerdict | None
    site: list[SiteVerdict]
    """What the rules of the site found in the manifest."""
    built: bool = False
    fetched: list[str] = field(default_factory=list)
    publish_task: str | None = None
    """The state of the manifest's release, where one is queued or was sent."""

    @property
    def failure(self) -> str | None:
        """What the verdict is where the bundle must not be used."""
        if self.verdict is not None and self.verdict.failure:
            return self.verdict.failure
        broken = [one for one in self.site if not one.holds]
        if broken:
            return (
                "The manifest breaks rules of the site. Where: rpt_bundle_site_rules. Why: "
                + "; ".join(f"{one.rule.name} yields {one.found!r}, not true" for one in broken)
                + ". Mend: correct what the rules name, or the rules"
            )
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


@dataclass(frozen=True)
class _Rows:
    """The verified rows, written to ``staging``, and the image of the tables they stand in."""

    verdict: RptVerdict
    writer: BatchWriter
    image_sha256: str
    seen_at: datetime


def build_bundle(order: Order, ports: Ports) -> Bundle:
    """Build the bundle of ``order``, or take the one that is frozen under its submission id.

    :raises ApgmsError: ``flags.forbidden``, ``signer.unpinned``, ``bundle.unnamed``,
        ``bundle.empty``, ``bundle.other_inputs``, ``bundle.altered``, ``rates.not_approved``,
        ``rates.*``, ``approval.waiting`` for a rehearsal without a permit, ``log.*``,
        ``database.*``, ``object_store.*``
    """
    require_lawful(order.stack, order.purpose, order.flags, where="apgms_flags")
    require_named(order)
    require_pinned(ports)
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
    catalog = approved_catalog(order, candidate_periods(ports.connection))
    rows = _verified(order, ports, staging, catalog)
    if rows.verdict.invalid_total:
        return Bundle(None, rows.verdict, [])
    require_rows(rows.verdict)
    submission_id = order.submission_id or _derived_id(order, catalog, rows.image_sha256)
    frozen = _frozen(ports.connection, submission_id)
    if frozen:
        return _resume(order, ports, frozen, rows.verdict)
    ports.progress.say("Bundle: taking the ledger snapshot")
    snapshot = take_snapshot(
        ports.connection, ports.store, ports.log_signer, ports.policy, ports.clock
    )
    manifest = _manifest(order, ports, submission_id, catalog, rows, snapshot)
    site = apply_site_rules(order.site_rules, manifest.document(), SITE_RULES)
    if not all(one.holds for one in site):
        return Bundle(None, rows.verdict, site)
    ports.progress.say("Bundle: storing and freezing it")
    write_files(staging, _ledger_files(snapshot) | _rates_files(catalog))
    write_files(staging, _signed(manifest, rows.verdict, ports.manifest_signer))
    if not _freeze(ports, staging, manifest, permit):
        return _resume(order, ports, str(_frozen(ports.connection, submission_id)), rows.verdict)
    task = publish_task(ports.connection, manifest.checksum)
    return Bundle(manifest, rows.verdict, site, built=True, publish_task=task)


def _verified(order: Order, ports: Ports, staging: Path, catalog: Catalog) -> _Rows:
    writer = BatchWriter(staging)
    now = ports.clock.now()
    with one_view(ports.connection):
        verdict = verify_rows(
            ports.connection,
            ports.policy,
            now,
            catalog.rates_version,
            sink=writer.write,
            limit=order.limit,
            progress=ports.progress,
        )
        writer.close()
        ports.progress.say("Bundle: writing the image of periods and tokens")
        with (staging / "image.jsonl").open("wb") as out:
            image_sha256 = write_image(ports.connection, out)
    return _Rows(verdict, writer, image_sha256, now)


def _manifest(
    order: Order,
    ports: Ports,
    submission_id: str,
    catalog: Catalog,
    rows: _Rows,
    snapshot: Snapshot,
) -> Manifest:
    return Manifest(
        stack=order.stack,
        purpose=order.purpose,
        flags=order.flags,
        built_at=iso_utc(rows.seen_at),
        release_window=order.window,
        submission_id=submission_id,
        rates_version=catalog.rates_version,
        rates_bundle_sha256=catalog.bundle_sha256,
        batches=tuple(rows.writer.batches(_digests(snapshot.namespaces))),
        ledger=_ledger(snapshot),
        image_sha256=rows.image_sha256,
        previous=_previous(ports, order.stack),
        collection_version=VERSION,
        source_revision=order.source_revision,
    )


def _signed(manifest: Manifest, verdict: RptVerdict, signer: Signer) -> dict[str, bytes]:
    predicate = verdict_predicate(manifest, verdict.summary())
    files = {MANIFEST: manifest.checksum}
    return {
        MANIFEST: manifest.to_bytes(),
        CHECKSUM: checksum_file(manifest.checksum),
        ATTESTATION: attest(files, VERDICT, predicate, signer.key_id, signer.sign),
    }


def _freeze(ports: Ports, staging: Path, manifest: Manifest, permit: list[Signed]) -> bool:
    """Store and freeze the bundle; return False where another run was faster: its bundle stands."""
    checksum = manifest.checksum
    ports.steps.run("bundle.put", lambda: publish(staging, ports.store, object_key(checksum, "")))
    frozen = ports.steps.run("bundle.freeze", lambda: _insert(ports.connection, manifest, permit))
    if frozen != checksum:
        return False
    publish(staging, ports.local, f"{checksum}/")
    return True


def _resume(order: Order, ports: Ports, checksum: str, verdict: RptVerdict | None) -> Bundle:
    manifest = load_manifest(ports.store, checksum, order.stack)
    require_same_inputs(order, manifest)
    fetched = fetch(ports.store, object_key(checksum, ""), ports.local, f"{checksum}/")
    require_unaltered(ports.local, f"{checksum}/", manifest, ports.policy)
    return Bundle(
        manifest,
        verdict,
        apply_site_rules(order.site_rules, manifest.document(), SITE_RULES),
        fetched=fetched,
        publish_task=publish_task(ports.connection, checksum),
    )


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
