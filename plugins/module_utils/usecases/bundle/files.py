# GNU General Public License v3.0+ (see COPYING)
"""The files of bundles, on this controller and in the object store, and how they are checked.

Both places are stores: here the keys are ``<manifest checksum>/<name>``, there they begin with
``releases/``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...domain.approval.policy import Policy
from ...domain.formats.attestation import VERDICT, read_attestation
from ...domain.release.manifest import Manifest
from ...errors import ApgmsError
from ...ports.object_store import (
    CHUNK_BYTES,
    ObjectMissing,
    ObjectStore,
    read,
    stream_digest,
)

MANIFEST = "manifest.json"
CHECKSUM = "manifest.json.sha256"
ATTESTATION = "manifest.dsse.json"


def checksum_file(checksum: str) -> bytes:
    """Return the content of ``manifest.json.sha256``, which ``sha256sum -c`` reads."""
    return f"{checksum}  {MANIFEST}\n".encode()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below ``folder``, with the folders they need."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def publish(folder: Path, store: ObjectStore, prefix: str) -> None:
    """Put every file of a bundle to a store; the manifest last, so that it refers to no gap."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: (name == MANIFEST, name)):
        store.put_new(prefix + name, folder / name)


def fetch(store: ObjectStore, source: str, local: ObjectStore, target: str) -> list[str]:
    """Copy the files below ``source`` that ``local`` lacks below ``target``; return their names."""
    here = {key.removeprefix(target) for key in local.keys(target)}
    there = [key.removeprefix(source) for key in store.keys(source)]
    missing = [name for name in there if name not in here]
    for name in missing:
        copy_object(store, source + name, local, target + name)
    return missing


def copy_object(source: ObjectStore, key: str, target: ObjectStore, new_key: str) -> None:
    """Copy an object of any size from one store to another."""
    with source.open(key) as stream, tempfile.NamedTemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, CHUNK_BYTES)
        copy.flush()
        target.put_new(new_key, Path(copy.name))


def require_unaltered(store: ObjectStore, prefix: str, manifest: Manifest, policy: Policy) -> None:
    """Check every file of a bundle against its manifest, and the signed verdict on that.

    :raises ApgmsError: ``bundle.altered``, and those of :func:`read_attestation`
    """
    for name, why in _deviations(store, prefix, manifest):
        raise _altered(f"{store.url}/{prefix}{name}", why)
    require_attested(store, prefix, manifest, policy)


def require_attested(store: ObjectStore, prefix: str, manifest: Manifest, policy: Policy) -> None:
    """Check the signed verdict on a bundle: its manifest was built here, not written by hand.

    :raises ApgmsError: ``bundle.altered`` where there is none, and those of
        :func:`read_attestation`
    """
    where = f"{store.url}/{prefix}{ATTESTATION}"
    try:
        attestation = read(store, prefix + ATTESTATION)
    except ObjectMissing:
        raise _altered(where, "it is missing") from None
    files = {MANIFEST: manifest.checksum}
    read_attestation(attestation, policy.manifest_keys, files, VERDICT, where=where)


def _deviations(store: ObjectStore, prefix: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name, digest in {MANIFEST: manifest.checksum, **manifest.files}.items():
        found = stored_sha256(store, prefix + name)
        if found != digest:
            yield name, f"its SHA-256 is {found or 'unknown: it is missing'}, not {digest}"


def _altered(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "bundle.altered",
        "A bundle is not what was built",
        where=where,
        why=why,
        mend="keep the file as evidence and remove it from the bundle's folder on this"
        " controller: the same command fetches it again; an altered object store needs a new"
        " bundle under a new submission id",
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return stream_digest(stream).hex()


def stored_sha256(store: ObjectStore, key: str) -> str | None:
    """Return the SHA-256 of an object in hexadecimal; None where there is none."""
    try:
        with store.open(key) as stream:
            return stream_digest(stream).hex()
    except ObjectMissing:
        return None
