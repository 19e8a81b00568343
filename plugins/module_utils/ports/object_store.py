# GNU General Public License v3.0+ (see COPYING)
"""The object store of a stack: objects are written once and never overwritten.

One port; adapters for a folder, for S3, and for check mode. :mod:`stores` opens one by its address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from ..errors import ApgmsError

CHUNK_BYTES = 1 << 20

BRING_BACK = "restore this object from the object store's own versions or a backup of its folder"
"""What mends an object that is damaged or gone."""

Objects = Sequence[tuple[str, Sequence[bytes]]]
"""Keys, and the bytes of each in parts."""


class ObjectMissing(ApgmsError):
    """There is no object under this key."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(
            "object_store.missing",
            "An object is not in the object store",
            where=f"{url}/{key}",
            why="no object has this key",
            mend="check apgms_object_store, and that the step which writes this object has run",
        )


class ObjectConflict(ApgmsError):
    """The key is taken by other bytes; nothing was overwritten."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(
            "object_store.conflict",
            "An object with other bytes is already stored under this key",
            where=f"{url}/{key}",
            why="objects are written once; the stored bytes differ from the new ones",
            mend="compare both; two stacks or two histories share this store, which must not be",
        )


class Putter(Protocol):
    """Puts many objects, a batch at a time, while others are being made."""

    def put(self, objects: Objects) -> None:
        """Have a batch put; it need not be done when this returns."""

    def settle(self) -> None:
        """Return once all that was put is durable; raise what hindered it."""


class PutHere:
    """Puts each batch before it returns."""

    def __init__(self, put_many: Callable[[Iterable[tuple[str, bytes]]], None]) -> None:
        self._put_many = put_many

    def put(self, objects: Objects) -> None:
        """Put a batch."""
        self._put_many((key, b"".join(parts)) for key, parts in objects)

    def settle(self) -> None:
        """Return; all of it is durable already."""


class ObjectStore(Protocol):
    """What the core asks of an object store. Keys are relative, with ``/`` between parts.

    Everything here raises ``object_store.unreachable`` where the store cannot be used.
    """

    url: str

    def put_new(self, key: str, data: bytes | Path) -> bool:
        """Store an object; return False where the same bytes were stored before.

        :raises ObjectConflict: where other bytes stand under ``key``
        """

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Store many small objects as :meth:`put_new` does; all are durable once it returns."""

    def putting(self) -> AbstractContextManager[Putter]:
        """Yield what does :meth:`put_many` while its caller goes on making objects.

        Enter this before any thread is started.
        """

    def open(self, key: str) -> IO[bytes]:
        """Return a stream of the object's bytes.

        :raises ObjectMissing: where there is none
        """

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        """Yield whole small objects in the order of ``keys``, some of them fetched ahead.

        :raises ObjectMissing: where one is not there
        """

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, in ascending order."""


def read(store: ObjectStore, key: str) -> bytes:
    """Return a whole object, for objects that fit in memory."""
    with store.open(key) as stream:
        return stream.read()


def stream_digest(stream: IO[bytes]) -> bytes:
    """Return the SHA-256 of what is left of a stream, of any size."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


def require_same(store: ObjectStore, key: str, data: bytes | Path) -> None:
    """Require that the object under ``key`` has these bytes.

    :raises ObjectConflict: where it has others
    :raises ObjectMissing: where there is none
    """
    with store.open(key) as stored:
        if stream_digest(stored) != _digest(data):
            raise ObjectConflict(store.url, key)


def _digest(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    with data.open("rb") as stream:
        return stream_digest(stream)


def unreachable(url: str, error: Exception | str, mend: str) -> ApgmsError:
    """Return the refusal of a store that cannot be used."""
    return ApgmsError(
        "object_store.unreachable",
        "The object store cannot be used",
        where=url,
        why=" ".join(str(error).split()),
        mend=mend,
    )
