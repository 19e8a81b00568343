# GNU General Public License v3.0+ (see COPYING)
"""The manifest: the one document that says what a release is.

Its file holds the RFC 8785 bytes of the document; the SHA-256 of them is the manifest checksum.
``docs/manifest.md`` describes each member.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import ApgmsError
from .canonical import canonical, parse_canonical, sha256_hex

SCHEMA = "apgms.release/manifest/1"
PURPOSES = ("release", "prototype", "rehearsal")
SHA256 = re.compile(r"[0-9a-f]{64}")
_CENTS = re.compile(r"0|-?[1-9][0-9]*")


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
        return f"rpts/{self.tax_type}-{self.period_id}.jsonl"


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
    except json.JSONDecodeError as error:
        if not data.endswith(b"}") or error.pos == len(error.doc):
            raise _truncated(where, len(data)) from None
        raise _altered(where, str(error)) from None
    except ValueError as error:
        if not data.endswith(b"}"):
            raise _truncated(where, len(data)) from None
        raise _altered(where, str(error)) from None


def _read(document: dict[str, Any]) -> Manifest:
    _expect_members(document, _MEMBERS, "the manifest")
    flags = _object(document, "flags", {"seed": bool, "smoke": bool, "dryRun": bool})
    previous = document["previous"]
    manifest = Manifest(
        stack=_one_of(document, "stack", ("proto", "prod")),
        purpose=_one_of(document, "purpose", PURPOSES),
        flags=Flags(flags["seed"], flags["smoke"], flags["dryRun"]),
        batches=tuple(_read_batch(entry) for entry in document["batches"]),
        ledger=_read_ledger(_object(document, "ledger", _LEDGER)),
        previous=None if previous is None else Previous(**_object(document, "previous", _PREVIOUS)),
        **{name: document[name] for name in _PLAIN},
    )
    if manifest.document() != document:
        raise ValueError("its totals are not the sums of its batches")
    if [_sort_key(batch) for batch in manifest.batches] != sorted(
        {_sort_key(batch) for batch in manifest.batches}
    ):
        raise ValueError("its batches are not in order of tax type and period, each once")
    return manifest


def _read_batch(entry: Any) -> Batch:
    _expect_members(entry, _BATCH, "a batch")
    if not _CENTS.fullmatch(entry["amount_cents"]):
        raise ValueError(f"amount_cents {entry['amount_cents']!r} is not a number of cents")
    return Batch(**{**entry, "amount_cents": int(entry["amount_cents"])})


def _read_ledger(members: dict[str, Any]) -> Ledger:
    namespaces = members["namespaces"]
    _expect_members(namespaces, dict.fromkeys(namespaces, _Digest), "namespaces")
    return Ledger(**members)


def _sort_key(batch: Batch) -> tuple[str, str]:
    return batch.tax_type, batch.period_id


def _object(document: dict[str, Any], name: str, members: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = document[name]
    _expect_members(value, members, name)
    return value


def _one_of(document: dict[str, Any], name: str, values: tuple[str, ...]) -> str:
    value: str = document[name]
    if value not in values:
        raise ValueError(f"{name} is {value!r}, none of {', '.join(values)}")
    return value


class _Digest:
    """A SHA-256 in lower-case hexadecimal, as the kind of a member."""


_PREVIOUS: dict[str, Any] = {"manifest_sha256": _Digest, "tree_size": int}
_LEDGER: dict[str, Any] = {
    "origin": str,
    "tree_size": int,
    "root": _Digest,
    "checkpoint_sha256": _Digest,
    "hashes_sha256": _Digest,
    "namespaces": dict,
}
_BATCH: dict[str, Any] = {
    "tax_type": str,
    "period_id": str,
    "count": int,
    "amount_cents": str,
    "rpt_sha256": _Digest,
    "ledger_sha256": _Digest,
}
_PLAIN: dict[str, Any] = {
    "built_at": str,
    "release_window": (str, type(None)),
    "submission_id": str,
    "rates_version": str,
    "rates_bundle_sha256": _Digest,
    "image_sha256": _Digest,
    "collection_version": str,
    "source_revision": str,
}
_MEMBERS: dict[str, Any] = {
    **_PLAIN,
    "schema": str,
    "stack": str,
    "purpose": str,
    "flags": dict,
    "batch_total": int,
    "amount_total_cents": str,
    "batches": list,
    "ledger": dict,
    "previous": (dict, type(None)),
}


def _expect_members(value: Any, members: dict[str, Any], what: str) -> None:
    if not isinstance(value, dict) or value.keys() != members.keys():
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{what} has {found}, expected {sorted(members)}")
    for name, kind in members.items():
        if not _is_of(value[name], kind):
            raise ValueError(f"{name} is {value[name]!r}")


def _is_of(value: Any, kind: Any) -> bool:
    if kind is _Digest:
        return isinstance(value, str) and SHA256.fullmatch(value) is not None
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


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
