# GNU General Public License v3.0+ (see COPYING)
"""Fetch the manifest of a release from the object store."""

from __future__ import annotations

from ...domain.formats.shape import HEX_SHA256
from ...domain.release.manifest import Manifest, object_key, parse_manifest
from ...errors import ApgmsError
from ...ports.object_store import ObjectMissing, ObjectStore, read


def load_manifest(store: ObjectStore, checksum: str, stack: str | None = None) -> Manifest:
    """Return the manifest with this checksum.

    :raises ApgmsError: ``manifest.malformed_checksum``, ``manifest.unknown``, and those of
        :func:`parse_manifest`
    """
    if not HEX_SHA256.fullmatch(checksum):
        raise ApgmsError(
            "manifest.malformed_checksum",
            "This is not a manifest checksum",
            where="the manifest checksum given",
            why=f"{checksum!r} is not 64 lower-case hexadecimal digits",
            mend="copy it from the manifest.json.sha256 of the release",
        )
    key = object_key(checksum, "manifest.json")
    try:
        data = read(store, key)
    except ObjectMissing:
        raise _unknown(store, checksum) from None
    return parse_manifest(data, where=f"{store.url}/{key}", checksum=checksum, stack=stack)


def _unknown(store: ObjectStore, checksum: str) -> ApgmsError:
    return ApgmsError(
        "manifest.unknown",
        "No release has this manifest checksum",
        where=f"{store.url}/releases/",
        why=f"there is no {checksum}/manifest.json",
        mend="name the checksum of a release of this stack, as its manifest.json.sha256 says",
    )
