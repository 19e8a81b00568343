# GNU General Public License v3.0+ (see COPYING)
"""The auditors' runbook carried out on a bundle, so that an approver sees what he approves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...domain.approval.flags import unlawful
from ...domain.approval.policy import Policy
from ...domain.approval.window import parse_calendar
from ...domain.formats.canonical import sha256_hex
from ...domain.release.manifest import Batch, Manifest, object_key, parse_manifest
from ...domain.tax.periods import parse_period_id
from ...domain.tax.rates import CATALOG_NAME, HASH_NAME, Catalog, parse_catalog
from ...domain.tax.spot_check import check_gst_rate, check_paygw_bracket
from ...errors import ApgmsError
from ...libraries import cryptography_exceptions, ed25519
from ...ports.clock import parse_utc
from ...ports.object_store import ObjectMissing, ObjectStore, read
from ..bundle.files import CHECKSUM, MANIFEST, checksum_file, require_unaltered
from ..bundle.manifests import load_manifest
from .review import approvers_needed


@dataclass(frozen=True)
class Check:
    """A check of the auditors' runbook. ``holds`` is None where it is for people to judge."""

    name: str
    found: str
    holds: bool | None


@dataclass(frozen=True)
class Examination:
    """A manifest and what the checks found."""

    manifest: Manifest
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.holds is False]

    def lines(self) -> list[str]:
        """Return the checks as a terminal shows them."""
        words = {True: "ok  ", False: "FAIL", None: "note"}
        return [f"{words[check.holds]}  {check.name}: {check.found}" for check in self.checks]


def examine(store: ObjectStore, policy: Policy, checksum: str) -> Examination:
    """Return the manifest with this checksum and the checks of its bundle.

    :raises ApgmsError: ``manifest.*``, ``bundle.altered``, ``bundle.malformed``, ``attestation.*``
    """
    manifest = load_manifest(store, checksum, policy.stack)
    require_unaltered(store, object_key(checksum, ""), manifest, policy)
    try:
        return Examination(manifest, tuple(_checks(_Bundle(store, manifest, policy))))
    except (ValueError, KeyError) as error:
        raise ApgmsError(
            "bundle.malformed",
            "A file of the bundle cannot be read",
            where=f"{store.url}/{object_key(checksum, '')}",
            why=str(error),
            mend="do not approve it; have a new bundle built under a new submission id",
        ) from None


@dataclass(frozen=True)
class _Bundle:
    store: ObjectStore
    manifest: Manifest
    policy: Policy

    def read(self, name: str) -> bytes:
        """Return a file of the bundle; nothing where it is missing."""
        try:
            return read(self.store, object_key(self.manifest.checksum, name))
        except ObjectMissing:
            return b""

    def rows(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """Yield the RPT rows of a batch."""
        with self.store.open(object_key(self.manifest.checksum, batch.rpt_name)) as lines:
            yield from map(json.loads, lines)

    def sample(self, number: int) -> int:
        """A number that nobody could choose: it follows from the manifest checksum."""
        return int(sha256_hex(f"{self.manifest.checksum} {number}".encode())[:8], 16)


def _checks(bundle: _Bundle) -> Iterator[Check]:
    manifest = bundle.manifest
    named = bundle.read(CHECKSUM) == checksum_file(manifest.checksum)
    yield Check("Manifest checksum", f"{manifest.checksum}, as {CHECKSUM} says", named)
    yield Check("Files", f"{len(manifest.files) + 1} as the manifest names them, signed", True)
    yield _build_time(bundle)
    yield _amount(bundle)
    yield from (_rows(bundle, batch) for batch in manifest.batches)
    yield from (_row_sample(bundle, n, batch) for n, batch in enumerate(manifest.batches))
    yield _submission(bundle)
    yield _flags(manifest)
    yield from _rates(bundle)
    yield from _ledger(bundle)


def _build_time(bundle: _Bundle) -> Check:
    manifest = bundle.manifest
    found = f"{manifest.built_at}; release window {manifest.release_window or 'none'}"
    if manifest.release_window is None:
        return Check("Build time", found, None)
    try:
        calendar = parse_calendar(bundle.policy.document["windows"])
        window = calendar.window(manifest.release_window)
    except ApgmsError as error:
        return Check("Build time", f"{found}: {error}", None)
    inside = window.opens_at <= parse_utc(manifest.built_at) < window.closes_at
    span = f"{calendar.local(window.opens_at)} to {calendar.local(window.closes_at)}"
    return Check("Build time", f"{found}, {span}", True if inside else None)


def _amount(bundle: _Bundle) -> Check:
    manifest = bundle.manifest
    found = f"{manifest.batch_total:,} RPT rows, ${manifest.amount_total_cents / 100:,.2f}"
    if manifest.purpose == "release":
        quorum = bundle.policy.quorums["release"].signatures
        persons = max(quorum, approvers_needed(bundle.policy, manifest))
        found += f": {persons} must approve" if persons > 1 else ": one approver is enough"
    return Check("Amount", found, None)


def _rows(bundle: _Bundle, batch: Batch) -> Check:
    count = cents = 0
    for row in bundle.rows(batch):
        count += 1
        cents += int(row["amount_cents"])
    return Check(
        f"{batch.tax_type} {batch.period_id}",
        f"{count:,} RPT rows, ${cents / 100:,.2f}",
        (count, cents) == (batch.count, batch.amount_cents),
    )


def _row_sample(bundle: _Bundle, number: int, batch: Batch) -> Check:
    chosen = bundle.sample(number) % max(batch.count, 1)
    row = next((row for at, row in enumerate(bundle.rows(batch)) if at == chosen), None)
    if row is None:
        return Check(f"{batch.tax_type} {batch.period_id} sample", "there is no row", False)
    message = row["payload_c14n"].encode()
    payload = json.loads(message)
    stated = (row["payload_sha256"], row["amount_cents"], row["abn"])
    recomputed = (sha256_hex(message), str(payload["amount_cents"]), payload["entity_id"])
    return Check(
        f"{batch.tax_type} {batch.period_id} sample",
        f"RPT {row['id']} of ABN {row['abn']} over ${int(row['amount_cents']) / 100:,.2f}:"
        " payload, digest and signature",
        stated == recomputed and _signed(message, row["signature"], bundle.policy.rpt_keys),
    )


def _signed(message: bytes, signature: str, keys: dict[str, str]) -> bool:
    text = signature.replace("-", "+").replace("_", "/").rstrip("=")
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    for key in keys.values():
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).verify(data, message)
        except cryptography_exceptions.InvalidSignature:
            continue
        return True
    return False


def _submission(bundle: _Bundle) -> Check:
    manifest = bundle.manifest
    others = [
        other
        for other in _other_manifests(bundle.store, manifest.checksum)
        if other.submission_id == manifest.submission_id
    ]
    found = manifest.submission_id
    if others:
        found += f", also of manifest {others[0].checksum}"
    return Check("Submission id is unique", found, not others)


def _other_manifests(store: ObjectStore, checksum: str) -> Iterator[Manifest]:
    for key in store.keys("releases/"):
        parts = key.split("/")
        if len(parts) == 3 and parts[2] == MANIFEST and parts[1] != checksum:
            yield parse_manifest(read(store, key), where=f"{store.url}/{key}")


def _flags(manifest: Manifest) -> Check:
    flags = manifest.flags
    stated = {"seed": flags.seed, "smoke": flags.smoke, "dryRun": flags.dry_run}
    found = ", ".join(f"{name} {str(value).lower()}" for name, value in stated.items())
    broken = [rule for _reason, rule in unlawful(manifest.stack, manifest.purpose, flags)]
    found += f" for a {manifest.stack} {manifest.purpose}"
    return Check("Flags", "; ".join([found, *broken]), not broken)


def _rates(bundle: _Bundle) -> Iterator[Check]:
    manifest = bundle.manifest
    folder = f"rates/{manifest.rates_version}"
    catalog = parse_catalog(bundle.read(f"{folder}/{CATALOG_NAME}"))
    stated = bundle.read(f"{folder}/{HASH_NAME}") == catalog.hash_file
    bound = (catalog.rates_version, catalog.bundle_sha256) == (
        manifest.rates_version,
        manifest.rates_bundle_sha256,
    )
    yield Check("Rates", f"{manifest.rates_version}, {catalog.bundle_sha256}", stated and bound)
    yield _rates_dates(manifest, catalog)
    for number, batch in enumerate(manifest.batches):
        recompute = check_gst_rate if batch.tax_type == "GST" else check_paygw_bracket
        spot = recompute(catalog, bundle.sample(number))
        yield Check(f"{batch.tax_type} {batch.period_id} recomputed", spot.found, spot.holds)


def _rates_dates(manifest: Manifest, catalog: Catalog) -> Check:
    periods = sorted({batch.period_id for batch in manifest.batches})
    covered = all(catalog.covers(parse_period_id(period)) for period in periods)
    span = f"{catalog.effective_from} to {catalog.effective_to}"
    return Check("Rates cover the periods", f"{', '.join(periods)} in {span}", covered)


def _ledger(bundle: _Bundle) -> Iterator[Check]:
    stated = json.loads(bundle.read("ledger_hashes.json") or b"null")
    found = {
        name: sha256_hex(bundle.read(f"ledger/{name}.json"))
        for name in bundle.manifest.ledger.namespaces
    }
    yield Check(
        "Ledger hashes",
        ", ".join(f"{name} {digest}" for name, digest in sorted(found.items())) or "none",
        stated == found == bundle.manifest.ledger.namespaces,
    )
    previous = bundle.manifest.previous
    grown = previous is None or previous.tree_size <= bundle.manifest.ledger.tree_size
    before = f"{previous.tree_size:,} at {previous.manifest_sha256}" if previous else "none before"
    yield Check("Ledger rows", f"{bundle.manifest.ledger.tree_size:,}; {before}", grown)
