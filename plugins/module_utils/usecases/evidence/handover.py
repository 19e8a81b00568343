# GNU General Public License v3.0+ (see COPYING)
"""Hand a packaged run over to the auditors: hashes to the audit store, a ticket to close later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ...domain.formats.canonical import canonical
from ...domain.release.manifest import Manifest, object_key
from ...ports.object_store import ObjectStore, read
from ..bundle.files import ATTESTATION, CHECKSUM, MANIFEST
from ..bundle.manifests import load_manifest

SCHEMA = "apgms.release/ticket/1"


@dataclass(frozen=True)
class Handover:
    """What the auditors received."""

    ticket: str
    """Key of the ticket in the audit store."""
    hash_summary: str
    delivered: list[str]
    """Keys that were new in the audit store."""


def hand_over(store: ObjectStore, audit_store: ObjectStore, checksum: str, notes: str) -> Handover:
    """Copy the manifest and the ledger hashes to the audit store and open a ticket.

    Delivered again, the same run changes nothing. Notes stand in the ticket as first delivered.

    :param checksum: the manifest checksum
    :param notes: what the auditor should know
    :raises ApgmsError: those of :func:`load_manifest` and of the stores; ``object_store.conflict``
        where a ticket with other notes is open
    """
    manifest = load_manifest(store, checksum)
    prefix = f"{manifest.stack}/{checksum}/"
    files = {name: read(store, object_key(checksum, name)) for name in _names(manifest)}
    summary = hash_summary(manifest)
    files["ticket.json"] = canonical(
        {
            "schema": SCHEMA,
            "stack": manifest.stack,
            "purpose": manifest.purpose,
            "submission_id": manifest.submission_id,
            "manifest_sha256": checksum,
            "hash_summary": summary,
            "rates_version": manifest.rates_version,
            "notes": notes,
        }
    )
    delivered = [
        prefix + name for name, data in files.items() if audit_store.put_new(prefix + name, data)
    ]
    return Handover(f"{prefix}ticket.json", summary, delivered)


def hash_summary(manifest: Manifest) -> str:
    """Return the one digest that an auditor reads out: of checksum, tree root and namespaces.

    SHA-256 of the lines ``NAME DIGEST`` in order of name, each ended by a newline, hexadecimal.
    """
    digests = {
        **{f"ledger/{name}": digest for name, digest in manifest.ledger.namespaces.items()},
        "manifest": manifest.checksum,
        "root": manifest.ledger.root,
    }
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _names(manifest: Manifest) -> list[str]:
    ledger = [f"ledger/{name}.json" for name in manifest.ledger.namespaces]
    return [MANIFEST, CHECKSUM, ATTESTATION, "checkpoint", "ledger_hashes.json", *ledger]
