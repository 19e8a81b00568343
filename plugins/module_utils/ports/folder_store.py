# GNU General Public License v3.0+ (see COPYING)
"""An object store in a folder: objects as files, durable once they are put."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mmap
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import ApgmsError
from .object_store import CHUNK_BYTES, ObjectMissing, Putter, require_same, unreachable
from .put_process import put_beside

BLOCK_BYTES = 1 << 12
FILES_AT_ONCE = 256
SCRATCH = ".put-"
"""How the names of files and folders begin that are written, but are no objects yet."""
SCRATCH_SECONDS = 86_400
"""No writer needs its scratch files for longer; older ones were left by one that was killed."""


class FolderStore:
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept: set[Path] = set()
        self._used = False
        self.url = f"file://{root}"

    def put_new(self, key: str, data: bytes | Path) -> bool:
        target = self._path(key)
        try:
            if target.exists():
                require_same(self, key, data)
                return False
            self._make(target.parent)
            with _temporary_copy(data, target.parent) as copy:
                self._sweep({self._root, target.parent}, copy)
                os.link(copy, target)
            _sync_folder(target.parent)
        except FileExistsError:
            require_same(self, key, data)
            return False
        except OSError as error:
            raise folder_unreachable(self.url, error) from error
        return True

    def put_many(self, objects: Iterable[tuple[str, bytes | memoryview]]) -> None:
        rest = iter(objects)
        try:
            self._make(self._root)
            while batch := list(islice(rest, FILES_AT_ONCE)):
                with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._root) as scratch:
                    _write_synced(scratch, [data for _key, data in batch])
                    self._name_all(scratch, [key for key, _data in batch])
        except OSError as error:
            raise folder_unreachable(self.url, error) from error

    def putting(self) -> AbstractContextManager[Putter]:
        return put_beside(self.put_many)

    def open(self, key: str) -> IO[bytes]:
        file = self._file(key)
        try:
            if os.fstat(file.fileno()).st_size >= CHUNK_BYTES:
                return io.BufferedReader(_PastTheCache(file, self.url), CHUNK_BYTES)
            with file:
                return io.BytesIO(file.read())
        except OSError as error:
            raise folder_unreachable(self.url, error) from error

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        rest = iter(keys)
        while batch := list(islice(rest, FILES_AT_ONCE)):
            with contextlib.ExitStack() as stack:
                files = []
                for key in batch:
                    file = stack.enter_context(self._file(key))
                    if hasattr(os, "posix_fadvise"):
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
                    files.append(file)
                for file in files:
                    try:
                        data = file.read()
                    except OSError as error:
                        raise folder_unreachable(self.url, error) from error
                    yield data

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        try:
            found = list(self._keys_below(folder)) if folder.exists() else []
        except OSError as error:
            raise folder_unreachable(self.url, error) from error
        yield from sorted(key for key in found if key.startswith(prefix))

    def _keys_below(self, folder: Path) -> Iterator[str]:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(SCRATCH)]
            base = Path(parent).relative_to(self._root)
            yield from ((base / name).as_posix() for name in files if not name.startswith(SCRATCH))

    def _sweep(self, folders: set[Path], fresh: str) -> None:
        """Remove, once a folder, what writers left that were killed long before ``fresh`` was made.

        Ages are differences of the file system's own times, so no controller's clock matters.
        """
        now = os.stat(fresh).st_mtime  # noqa: PTH116 - mkstemp hands out a name, not a Path
        for folder in folders - self._swept:
            self._swept.add(folder)
            with contextlib.suppress(OSError):  # no right to see or remove them: they do no harm
                _remove_scratch(folder, now - SCRATCH_SECONDS)

    def _file(self, key: str) -> IO[bytes]:
        """Open a regular file; a pipe in its place is not waited for."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(f"{self._path(key)} is not a regular file")
        except FileNotFoundError:
            raise ObjectMissing(self.url, key) from None
        except OSError as error:
            raise folder_unreachable(self.url, error) from error
        return os.fdopen(descriptor, "rb", buffering=0)

    def _name_all(self, scratch: str, keys: list[str]) -> None:
        folders = {self._path(key).parent for key in keys}
        for folder in folders:
            self._make(folder)
        for number, key in enumerate(keys):
            try:
                os.link(f"{scratch}/{number}", f"{self._root}/{key}")
            except FileExistsError:
                require_same(self, key, Path(scratch, str(number)))
        for folder in folders:
            _sync_folder(folder)

    def _make(self, folder: Path) -> None:
        """Make a folder; the root is made only at first, not where it went while it was used."""
        if self._used and not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone", str(self._root))
        folder.mkdir(parents=True, exist_ok=True)
        self._used = True

    def _path(self, key: str) -> Path:
        _require_key(key)
        return self._root / key


class _PastTheCache(io.RawIOBase):
    """A large file, read once from beginning to end, a chunk ahead, into page-aligned memory."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url
        self._left = os.fstat(file.fileno()).st_size
        self._data = memoryview(b"")
        self._memory = [mmap.mmap(-1, CHUNK_BYTES), mmap.mmap(-1, CHUNK_BYTES)]
        self._reader = ThreadPoolExecutor(1)
        _set_direct(file.fileno(), direct=True)
        self._ahead = self._reader.submit(self._read_chunk)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._data and self._left > 0:
            self._data = self._ahead.result()
            self._left = self._left - len(self._data) if self._data else 0
            if self._left > 0:
                self._ahead = self._reader.submit(self._read_chunk)
        part = self._data[: len(target)]
        target[: len(part)] = part
        self._data = self._data[len(part) :]
        return len(part)

    def close(self) -> None:
        self._reader.shutdown()
        self._file.close()
        super().close()

    def _read_chunk(self) -> memoryview:
        """Read into the memory that was used the time before last."""
        memory = self._memory[0]
        self._memory.reverse()
        descriptor = self._file.fileno()
        try:
            try:
                count = os.readv(descriptor, [memory])
            except OSError as error:
                if error.errno != errno.EINVAL or not _set_direct(descriptor, direct=False):
                    raise
                count = os.readv(descriptor, [memory])
        except OSError as error:
            raise folder_unreachable(self._url, error) from error
        return memoryview(memory)[:count]


def _raise(error: OSError) -> None:
    raise error


def _require_key(key: str) -> None:
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"{key!r} is not an object key")


@contextlib.contextmanager
def _temporary_copy(data: bytes | Path, folder: Path) -> Iterator[str]:
    descriptor, name = tempfile.mkstemp(prefix=SCRATCH, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as copy:
            if isinstance(data, bytes):
                copy.write(data)
            else:
                with data.open("rb") as source:
                    while chunk := source.read(CHUNK_BYTES):
                        copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        yield name
    finally:
        os.unlink(name)  # noqa: PTH108 - mkstemp hands out a name, not a Path


def _remove_scratch(folder: Path, before: float) -> None:
    with os.scandir(folder) as entries:
        scratch = [entry for entry in entries if entry.name.startswith(SCRATCH)]
    for entry in scratch:
        if entry.stat(follow_symlinks=False).st_mtime >= before:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)  # noqa: PTH108 - an entry has a name, not a Path


def _write_synced(folder: str, contents: list[bytes | memoryview]) -> None:
    """Write numbered files; the first sync commits what all have in common."""
    with contextlib.ExitStack() as stack:
        buffer = stack.enter_context(mmap.mmap(-1, CHUNK_BYTES))
        descriptors = []
        for number, data in enumerate(contents):
            descriptor = os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            stack.callback(os.close, descriptor)
            _write_past_the_cache(descriptor, data, buffer)
            descriptors.append(descriptor)
        for descriptor in descriptors:
            os.fsync(descriptor)


def _write_past_the_cache(descriptor: int, data: bytes | memoryview, buffer: mmap.mmap) -> None:
    """Write whole blocks from page-aligned memory, where the file system takes them directly.

    The page cache costs many times the write itself, and is better left to the database.
    """
    _set_direct(descriptor, direct=True)
    done = 0
    while done < len(data):
        part = data[done : done + CHUNK_BYTES]
        buffer[: len(part)] = part
        blocks = -(-len(part) // BLOCK_BYTES) * BLOCK_BYTES
        try:
            with memoryview(buffer) as memory:
                done += os.write(descriptor, memory[:blocks])
        except OSError as error:
            if error.errno != errno.EINVAL or not _set_direct(descriptor, direct=False):
                raise
    if done > len(data):
        os.ftruncate(descriptor, len(data))


def _set_direct(descriptor: int, *, direct: bool) -> bool:
    """Let a descriptor pass the page cache, or not; return whether that changed it."""
    flag = getattr(os, "O_DIRECT", 0)
    before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    after = before | flag if direct else before & ~flag
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, after)
        return before != after
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_unreachable(url: str, error: OSError) -> ApgmsError:
    """Return the refusal of a folder that cannot be used."""
    return unreachable(url, error, _mend_folder(url, error))


def _mend_folder(url: str, error: OSError) -> str:
    folder = shlex.quote(url.removeprefix("file://"))
    again = "then run the same command again"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"df -h {folder}; df -i {folder}  # make room, {again}"
        case errno.EROFS:
            return f"findmnt -T {folder}  # mount it for writing, {again}"
        case errno.EACCES | errno.EPERM:
            return f"namei -l {folder}  # let uid {os.geteuid()} read and write there, {again}"
        case errno.EIO | errno.ESTALE:
            return f"findmnt -T {folder}  # have the disk or the mount looked at, {again}"
        case errno.EMFILE:
            return f"ulimit -n 4096  # in this shell, {again} in it"
        case errno.ENFILE:
            return f"ulimit -n 4096; cat /proc/sys/fs/file-nr  # end what holds so many, {again}"
    return f"ls -la {folder}  # remove or correct what is in the way, {again}"
