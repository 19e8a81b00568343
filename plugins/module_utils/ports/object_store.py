# GNU General Public License v3.0+ (see COPYING)
"""The object store of a stack: objects are written once and never overwritten.

One port, two adapters: a folder (``file:///path``) and S3 (``s3://bucket/prefix``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import mmap
import os
import shlex
import shutil
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import groupby, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from ..errors import ApgmsError
from ..libraries import boto3, botocore
from ..parallel import in_order
from .put_process import Objects, PutHere, Putter, put_beside

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 1 << 12
REQUESTS_AT_ONCE = 8
BATCHES_AT_ONCE = 4
CONNECTIONS = (1 + BATCHES_AT_ONCE) * REQUESTS_AT_ONCE
"""A pool with room for the threads of as many batches, and one that reads."""
FILES_AT_ONCE = 256
SCRATCH = ".put-"
"""How the names of files and folders begin that are written, but are no objects yet."""
SCRATCH_SECONDS = 86_400
"""No writer needs its scratch files for longer; older ones were left by one that was killed."""


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


class FolderStore:
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept: set[Path] = set()
        self.url = f"file://{root}"

    def put_new(self, key: str, data: bytes | Path) -> bool:
        target = self._path(key)
        try:
            if target.exists():
                return self._same_or_conflict(key, data)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_copy(data, target.parent) as copy:
                self._sweep({self._root, target.parent}, copy)
                os.link(copy, target)
            _sync_folder(target.parent)
        except FileExistsError:
            return self._same_or_conflict(key, data)
        except OSError as error:
            raise _unreachable(self.url, error) from error
        return True

    def put_many(self, objects: Iterable[tuple[str, bytes | memoryview]]) -> None:
        rest = iter(objects)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            while batch := list(islice(rest, FILES_AT_ONCE)):
                with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._root) as scratch:
                    _write_synced(scratch, [data for _key, data in batch])
                    self._name_all(scratch, [key for key, _data in batch])
        except OSError as error:
            raise _unreachable(self.url, error) from error

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
            raise _unreachable(self.url, error) from error

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
                        raise _unreachable(self.url, error) from error
                    yield data

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        try:
            found = list(self._keys_below(folder)) if folder.exists() else []
        except OSError as error:
            raise _unreachable(self.url, error) from error
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
            raise _unreachable(self.url, error) from error
        return os.fdopen(descriptor, "rb", buffering=0)

    def _name_all(self, scratch: str, keys: list[str]) -> None:
        folders = {self._path(key).parent for key in keys}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(keys):
            try:
                os.link(f"{scratch}/{number}", f"{self._root}/{key}")
            except FileExistsError:
                self._same_or_conflict(key, Path(scratch, str(number)))
        for folder in folders:
            _sync_folder(folder)

    def _path(self, key: str) -> Path:
        _require_key(key)
        return self._root / key

    def _same_or_conflict(self, key: str, data: bytes | Path) -> bool:
        with self.open(key) as stored:
            if stream_digest(stored) != _digest(data):
                raise ObjectConflict(self.url, key)
        return False


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
            raise _unreachable(self._url, error) from error
        return memoryview(memory)[:count]


class S3Store:
    """Objects in a bucket; puts are conditional (``If-None-Match: *``)."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._endpoint = endpoint
        self._client_made: S3Client | None = None

    def put_new(self, key: str, data: bytes | Path) -> bool:
        with contextlib.ExitStack() as stack:
            body = stack.enter_context(data.open("rb")) if isinstance(data, Path) else data
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=body, IfNoneMatch="*"
                )
            except botocore.exceptions.ClientError as error:
                if _status(error) != 412:
                    raise _unreachable(self.url, error) from error
            except botocore.exceptions.BotoCoreError as error:
                raise _unreachable(self.url, error) from error
            else:
                return True
        # 412 also answers botocore's own retry of a put whose reply was lost: compare.
        with self.open(key) as stored:
            if stream_digest(stored) != _digest(data):
                raise ObjectConflict(self.url, key)
        return False

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        self._client  # noqa: B018 - made before threads share it
        deque(in_order(lambda new: self.put_new(*new), objects, REQUESTS_AT_ONCE), maxlen=0)

    @contextlib.contextmanager
    def putting(self) -> Iterator[Putter]:
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
            yield _PutInThreads(self, pool)

    def open(self, key: str) -> IO[bytes]:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except botocore.exceptions.ClientError as error:
            if _status(error) == 404:
                raise ObjectMissing(self.url, key) from None
            raise _unreachable(self.url, error) from error
        except botocore.exceptions.BotoCoreError as error:
            raise _unreachable(self.url, error) from error
        return cast("IO[bytes]", io.BufferedReader(_S3Body(answer["Body"], self.url), CHUNK_BYTES))

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        self._client  # noqa: B018 - made before threads share it
        return in_order(lambda key: read(self, key), keys, REQUESTS_AT_ONCE)

    def keys(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        try:
            for page in pages:
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self._prefix)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise _unreachable(self.url, error) from error

    @property
    def _client(self) -> S3Client:
        if self._client_made is None:
            self._client_made = boto3.client(
                "s3",
                endpoint_url=self._endpoint,
                config=botocore.config.Config(max_pool_connections=CONNECTIONS),
            )
        return self._client_made


class _PutInThreads:
    """Puts a few batches at once, each in a thread."""

    def __init__(self, store: S3Store, pool: ThreadPoolExecutor) -> None:
        self._here = PutHere(store.put_many)
        self._pool = pool
        self._begun: deque[Future[None]] = deque()

    def put(self, objects: Objects) -> None:
        if len(self._begun) > BATCHES_AT_ONCE:
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(self._here.put, objects))

    def settle(self) -> None:
        while self._begun:
            self._begun.popleft().result()


class _S3Body(io.RawIOBase):
    """The body of an answer, with the faults of its connection in the operator's words."""

    def __init__(self, body: Any, url: str) -> None:
        self._body = body
        self._url = url

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._body.readinto(buffer))
        except botocore.exceptions.BotoCoreError as error:
            raise _unreachable(self._url, error) from error

    def close(self) -> None:
        self._body.close()
        super().close()


class OverlayStore:
    """For check mode: reads through to a store, keeps what would be written in a temporary file."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.url = store.url
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the overlay
        self._places: dict[str, tuple[int, int]] = {}
        self._lock = threading.RLock()

    def put_new(self, key: str, data: bytes | Path) -> bool:
        new = data.read_bytes() if isinstance(data, Path) else data
        with self._lock:
            try:
                stored = read(self, key)
            except ObjectMissing:
                self._keep(key, new)
                return True
        if stored != new:
            raise ObjectConflict(self.url, key)
        return False

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        for key, data in objects:
            self.put_new(key, data)

    def putting(self) -> AbstractContextManager[Putter]:
        return contextlib.nullcontext(PutHere(self.put_many))

    def _keep(self, key: str, data: bytes) -> None:
        try:
            place = self._spool.seek(0, os.SEEK_END)
            self._spool.write(data)
            self._spool.flush()
        except OSError as error:
            raise _unreachable(f"file://{tempfile.gettempdir()}", error) from error
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


def _raise(error: OSError) -> None:
    raise error


def _require_key(key: str) -> None:
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"{key!r} is not an object key")


def _digest(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    with data.open("rb") as stream:
        return stream_digest(stream)


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


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _unreachable(url: str, error: BaseException) -> ApgmsError:
    return ApgmsError(
        "object_store.unreachable",
        "The object store cannot be used",
        where=url,
        why=" ".join(str(error).split()),
        mend=_mend_folder(url, error)
        if isinstance(error, OSError)
        else "check the address, the session (aws sso login --profile apgms-STACK) and the rights",
    )


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
    return f"ls -la {folder}  # remove or correct what is in the way, {again}"
