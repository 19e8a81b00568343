# GNU General Public License v3.0+ (see COPYING)
"""The manifest: the one document that says what a release is.

Its file holds the RFC 8785 bytes of the document; the SHA-256 of them is the manifest checksum.
``docs/manifest.md`` describes each member.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ...errors import ApgmsError
from ..formats.canonical import canonical, parse_canonical, sha256_hex
from ..formats.shape import CENTS, HEX_SHA256, STACK, TEXT, MapOf, require_shape
from ..tax.periods import PERIOD_ID

SCHEMA = "apgms.release/manifest/1"
PURPOSES = {"proto": ("prototype",), "prod": ("release", "rehearsal")}
"""What a run of a stack may be for; the first is the usual one."""


@dataclass(frozen=True)
class Flags:
    """The flags that the bundle was built under."""

    seed: bool
    smoke: bool
    dry_run: bool


@dataclass(frozen=True)
class Batch:
    """The RPT rows of one tax type and period; the amount in cents."""

    tax_type: str
    period_id: str
    count: int
    amount_cents: int
    rpt_sha256: str
    """Of the file :attr:`rpt_name`."""
    ledger_sha256: str
    """Of ``ledger/<namespace>.json`` of this tax type."""

    @property
    def rpt_name(self) -> str:
        """The name of the batch's rows in the bundle."""
        return rpt_name(self.tax_type, self.period_id)


@dataclass(frozen=True)
class Ledger:
    """The ledger snapshot that the manifest carries."""

    origin: str
    tree_size: int
    root: str
    """RFC 6962 root, hexadecimal."""
    checkpoint_sha256: str
    hashes_sha256: str
    """Of ``ledger_hashes.json``."""
    namespaces: dict[str, str]
    """Namespace (tax type, lower case) to the SHA-256 of ``ledger/<namespace>.json``."""


@dataclass(frozen=True)
class Previous:
    """The release before this one, and the size of its ledger."""

    manifest_sha256: str
    tree_size: int


@dataclass(frozen=True)
class Manifest:
    """A manifest. Amounts are cents, times ISO 8601 in UTC."""

    stack: str
    purpose: str
    flags: Flags
    built_at: str
    release_window: str | None
    """The beginning of the release window, YYYYMMDDHHMM; none on proto."""
    submission_id: str
    rates_version: str
    rates_bundle_sha256: str
    batches: tuple[Batch, ...]
    """Sorted by tax type and period."""
    ledger: Ledger
    image_sha256: str
    """Of ``image.jsonl``, the periods and tokens of the whole stack."""
    previous: Previous | None
    collection_version: str
    source_revision: str

    @property
    def batch_total(self) -> int:
        """The number of RPT rows."""
        return sum(batch.count for batch in self.batches)

    @property
    def amount_total_cents(self) -> int:
        """The sum of the batches, in cents."""
        return sum(batch.amount_cents for batch in self.batches)

    @property
    def files(self) -> dict[str, str]:
        """The bundle's files that the manifest binds, each with its SHA-256."""
        ledger = self.ledger
        return {
            **{batch.rpt_name: batch.rpt_sha256 for batch in self.batches},
            **{f"ledger/{name}.json": digest for name, digest in ledger.namespaces.items()},
            "ledger_hashes.json": ledger.hashes_sha256,
            "checkpoint": ledger.checkpoint_sha256,
            "image.jsonl": self.image_sha256,
            f"rates/{self.rates_version}/catalog.json": self.rates_bundle_sha256,
        }

    @property
    def checksum(self) -> str:
        """The manifest checksum, 64 hexadecimal digits."""
        return sha256_hex(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of ``manifest.json``."""
        return canonical(self.document())

    def document(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return {
            "schema": SCHEMA,
            "stack": self.stack,
            "purpose": self.purpose,
            "flags": {
                "seed": self.flags.seed,
                "smoke": self.flags.smoke,
                "dryRun": self.flags.dry_run,
            },
            "built_at": self.built_at,
            "release_window": self.release_window,
            "submission_id": self.submission_id,
            "rates_version": self.rates_version,
            "rates_bundle_sha256": self.rates_bundle_sha256,
            "batch_total": self.batch_total,
            "amount_total_cents": str(self.amount_total_cents),
            "batches": [
                {**vars(batch), "amount_cents": str(batch.amount_cents)} for batch in self.batches
            ],
            "ledger": vars(self.ledger),
            "image_sha256": self.image_sha256,
            "previous": None if self.previous is None else vars(self.previous),
            "collection_version": self.collection_version,
            "source_revision": self.source_revision,
        }


def rpt_name(tax_type: str, period_id: str) -> str:
    """Return the name of a batch's rows in the bundle."""
    return f"rpts/{tax_type}-{period_id}.jsonl"


def object_key(checksum: str, name: str) -> str:
    """Return the key of a bundle's file in the object store."""
    return f"releases/{checksum}/{name}"


def parse_manifest(
    data: bytes, *, where: str, checksum: str | None = None, stack: str | None = None
) -> Manifest:
    """Return the manifest whose file holds ``data``.

    :param where: the file or object, for the message
    :param checksum: the manifest checksum it must have
    :param stack: the stack it must be of
    :raises ApgmsError: ``manifest.truncated``, ``manifest.altered``, ``manifest.unknown_schema``,
        ``manifest.malformed``, ``manifest.other_stack``
    """
    document = _parse_json(data, where)
    if checksum is not None and sha256_hex(data) != checksum:
        raise _altered(where, f"its SHA-256 is {sha256_hex(data)}, expected {checksum}")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _unknown_schema(where, document)
    try:
        manifest = _read(document)
    except ValueError as error:
        raise _malformed(where, str(error)) from None
    if stack is not None and manifest.stack != stack:
        raise _other_stack(where, manifest.stack, stack)
    return manifest


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return parse_canonical(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        ends_early = isinstance(error, json.JSONDecodeError) and error.pos == len(error.doc)
        if ends_early or not data.endswith(b"}"):
            raise _truncated(where, len(data)) from None
        raise _altered(where, str(error)) from None
    except ValueError as error:
        raise _altered(where, str(error)) from None


def _read(document: dict[str, Any]) -> Manifest:
    require_shape(document, _SHAPE, "the manifest")
    flags = document["flags"]
    previous = document["previous"]
    manifest = Manifest(
        flags=Flags(flags["seed"], flags["smoke"], flags["dryRun"]),
        batches=tuple(
            Batch(**{**entry, "amount_cents": int(entry["amount_cents"])})
            for entry in document["batches"]
        ),
        ledger=Ledger(**document["ledger"]),
        previous=None if previous is None else Previous(**previous),
        **{name: document[name] for name in _PLAIN},
    )
    if manifest.document() != document:
        raise ValueError("its totals are not the sums of its batches")
    keys = [(batch.tax_type, batch.period_id) for batch in manifest.batches]
    if keys != sorted(set(keys)):
        raise ValueError("its batches are not in order of tax type and period, each once")
    return manifest


_PLAIN: dict[str, Any] = {
    "stack": STACK,
    "purpose": re.compile("|".join(chain.from_iterable(PURPOSES.values()))),
    "built_at": TEXT,
    "release_window": (re.compile(r"[0-9]{12}"), None),
    "submission_id": TEXT,
    "rates_version": TEXT,
    "rates_bundle_sha256": HEX_SHA256,
    "image_sha256": HEX_SHA256,
    "collection_version": TEXT,
    "source_revision": TEXT,
}
_BATCH = {
    "tax_type": re.compile(r"[A-Z]+"),
    "period_id": PERIOD_ID,
    "count": int,
    "amount_cents": CENTS,
    "rpt_sha256": HEX_SHA256,
    "ledger_sha256": HEX_SHA256,
}
_LEDGER = {
    "origin": TEXT,
    "tree_size": int,
    "root": HEX_SHA256,
    "checkpoint_sha256": HEX_SHA256,
    "hashes_sha256": HEX_SHA256,
    "namespaces": MapOf(re.compile(r"[a-z]+"), HEX_SHA256),
}
_SHAPE: dict[str, Any] = {
    **_PLAIN,
    "schema": re.compile(re.escape(SCHEMA)),
    "flags": {"seed": bool, "smoke": bool, "dryRun": bool},
    "batch_total": int,
    "amount_total_cents": CENTS,
    "batches": [_BATCH],
    "ledger": _LEDGER,
    "previous": ({"manifest_sha256": HEX_SHA256, "tree_size": int}, None),
}


def _truncated(where: str, size: int) -> ApgmsError:
    return ApgmsError(
        "manifest.truncated",
        "A manifest is cut short",
        where=where,
        why=f"the JSON ends in the middle, after {size} bytes",
        mend="fetch the whole file again; a manifest is never repaired by hand",
    )


def _altered(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "manifest.altered",
        "A manifest is not what was built",
        where=where,
        why=why,
        mend="take the file from releases/<checksum>/ of the object store, or build a new bundle",
    )


def _unknown_schema(where: str, document: Any) -> ApgmsError:
    found = document.get("schema") if isinstance(document, dict) else type(document).__name__
    return ApgmsError(
        "manifest.unknown_schema",
        "A file is not a manifest that this version can read",
        where=where,
        why=f"its schema is {found!r}, expected {SCHEMA!r}",
        mend="name a manifest.json of apgms.release, or use the collection version that wrote it",
    )


def _malformed(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "manifest.malformed",
        "A manifest does not hold what a manifest holds",
        where=where,
        why=why,
        mend="build a new bundle; a manifest is never repaired by hand",
    )


def _other_stack(where: str, found: str, expected: str) -> ApgmsError:
    return ApgmsError(
        "manifest.other_stack",
        "A manifest is of the other stack",
        where=where,
        why=f"it is a {found} manifest; this run is for {expected}",
        mend=f"name a manifest of {expected}, or run the playbook of {found}",
    )
