# GNU General Public License v3.0+ (see COPYING)
"""Which object store is at an address: a folder (``file:///path``) or S3 (``s3://bucket/prefix``)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ApgmsError
from .folder_store import FolderStore
from .object_store import ObjectStore
from .s3_store import S3Store


def open_object_store(url: str, endpoint: str | None = None) -> ObjectStore:
    """Return the store at ``url``.

    :raises ApgmsError: ``object_store.malformed_url``
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return FolderStore(Path(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint)
    raise ApgmsError(
        "object_store.malformed_url",
        "The object store address cannot be read",
        where="object_store",
        why=f"{url!r} is neither file:///FOLDER nor s3://BUCKET/PREFIX",
        mend="set apgms_object_store to one of the two forms",
    )
