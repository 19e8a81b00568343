# GNU General Public License v3.0+ (see COPYING)
"""The object store of check mode: nothing is written to the one below."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import IO

from .folder_store import folder_unreachable
from .object_store import ObjectMissing, ObjectStore, PutHere, Putter, read, require_same


class OverlayStore:
    """Reads through to a store, keeps what would be written in a temporary file."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.url = store.url
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the overlay
        self._places: dict[str, tuple[int, int]] = {}
        self._listed: dict[str, frozenset[str]] = {}
        self._lock = threading.RLock()

    def put_new(self, key: str, data: bytes | Path) -> bool:
        with self._lock:
            try:
                require_same(self, key, data)
            except ObjectMissing:
                self._keep(key, data.read_bytes() if isinstance(data, Path) else data)
                return True
        return False

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        for key, data in objects:
            with self._lock:
                if key in self._places or key in self._stored_beside(key):
                    self.put_new(key, data)
                else:
                    self._keep(key, data)

    def putting(self) -> AbstractContextManager[Putter]:
        return contextlib.nullcontext(PutHere(self.put_many))

    def _stored_beside(self, key: str) -> frozenset[str]:
        """Return the keys below this key's folder; to ask for each key takes a request each."""
        folder = key[: key.rfind("/") + 1]
        if folder not in self._listed:
            self._listed[folder] = frozenset(self._store.keys(folder))
        return self._listed[folder]

    def _keep(self, key: str, data: bytes) -> None:
        try:
            place = self._spool.seek(0, os.SEEK_END)
            self._spool.write(data)
            self._spool.flush()
        except OSError as error:
            raise folder_unreachable(f"file://{tempfile.gettempdir()}", error) from error
        self._places[key] = (place, len(data))

    def open(self, key: str) -> IO[bytes]:
        if key not in self._places:
            return self._store.open(key)
        place, length = self._places[key]
        with self._lock:
            self._spool.seek(place)
            return io.BytesIO(self._spool.read(length))

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        for mine, some in groupby(keys, self._places.__contains__):
            if mine:
                yield from (read(self, key) for key in some)
            else:
                yield from self._store.read_many(some)

    def keys(self, prefix: str) -> Iterator[str]:
        mine = (key for key in self._places if key.startswith(prefix))
        yield from sorted({*self._store.keys(prefix), *mine})
