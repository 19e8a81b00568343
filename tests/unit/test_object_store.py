"""One behaviour, three adapters: a folder, S3 (an emulated server), the check-mode overlay."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import (
    BLOCK_BYTES as BLOCK,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    CHUNK_BYTES as CHUNK,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    ObjectConflict,
    ObjectMissing,
    ObjectStore,
    read,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from tests.folders import without_rights


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3", "overlay"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    if request.param == "folder":
        return open_object_store(f"file://{tmp_path}/store")
    if request.param == "overlay":
        return OverlayStore(FolderStore(tmp_path / "store"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "emulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "emulated")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    endpoint = request.getfixturevalue("s3_endpoint")
    bucket = tmp_path.name.replace("_", "-")[-40:].strip("-").lower()
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return open_object_store(f"s3://{bucket}/evidence", endpoint)


def test_what_is_put_is_read(store: ObjectStore) -> None:
    assert store.put_new("journal/0000000000000001", b"row") is True
    assert read(store, "journal/0000000000000001") == b"row"


def test_the_same_bytes_again_are_no_change(store: ObjectStore) -> None:
    store.put_new("a", b"1")
    assert store.put_new("a", b"1") is False


def test_other_bytes_are_refused_and_nothing_is_overwritten(store: ObjectStore) -> None:
    store.put_new("a", b"1")
    with pytest.raises(ObjectConflict):
        store.put_new("a", b"2")
    assert read(store, "a") == b"1"


def test_many_objects_are_put_like_single_ones(store: ObjectStore) -> None:
    store.put_new("tile/7", b"7")
    store.put_many((f"tile/{number}", b"%d" % number) for number in range(40))
    assert {key: read(store, key) for key in store.keys("tile/")} == {
        f"tile/{number}": b"%d" % number for number in range(40)
    }
    assert len(list(store.keys(""))) == 40
    with pytest.raises(ObjectConflict):
        store.put_many([("other", b"1"), ("tile/3", b"4")])
    assert read(store, "tile/3") == b"3"


def test_a_folder_that_goes_while_it_is_used_is_not_made_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put_new("first", b"1")
    (tmp_path / "store").rename(tmp_path / "moved")
    for put in (
        lambda: store.put_new("second", b"2"),
        lambda: store.put_many([("second", b"2")]),
    ):
        with pytest.raises(ApgmsError, match="the folder is gone"):
            put()
    assert not (tmp_path / "store").exists()


def test_batches_are_put_while_others_are_being_made(store: ObjectStore) -> None:
    objects = {f"{batch}/{n}": b"%d/%d" % (batch, n) for batch in range(12) for n in range(5)}
    with store.putting() as putter:
        for batch in range(12):
            putter.put([(f"{batch}/{n}", [b"%d/" % batch, b"%d" % n]) for n in range(5)])
        putter.settle()
        assert {key: read(store, key) for key in store.keys("")} == objects
        with pytest.raises(ObjectConflict):
            putter.put([("3/1", [b"other"])])
            putter.settle()
    assert read(store, "3/1") == b"3/1"


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
def test_objects_of_every_size_come_back_byte_for_byte(store: ObjectStore, size: int) -> None:
    data = random.Random(size).randbytes(size)
    store.put_many([("bulk", data), ("beside", b"small")])
    assert read(store, "bulk") == data
    with store.open("bulk") as stream:
        pieces = list(iter(lambda: stream.read(300_000), b""))
    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces[:-1]] == [300_000] * (len(pieces) - 1)


def test_many_objects_are_read_in_the_order_asked_for(store: ObjectStore) -> None:
    store.put_many((f"tile/{number}", b"%d" % number) for number in range(600))
    asked = list(range(599, -1, -1))
    found = store.read_many(f"tile/{number}" for number in asked)
    assert list(found) == [b"%d" % number for number in asked]
    with pytest.raises(ObjectMissing, match="tile/none"):
        list(store.read_many(["tile/1", "tile/none"]))


def test_many_threads_may_put_and_read(store: ObjectStore) -> None:
    def put(thread: int) -> None:
        store.put_many((f"{thread}/{n}", b"%d/%d" % (thread, n)) for n in range(60))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    keys = list(store.keys(""))
    assert [data.decode() for data in store.read_many(keys)] == keys
    assert len(keys) == 240


def test_what_the_folder_holds_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put_new("one", b"1")
    store.put_many([("many", b"2")])
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "one": 0o600,
        "many": 0o600,
    }


def test_what_is_no_file_is_one_message(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    store = FolderStore(tmp_path)
    for key in ("pipe", "folder"):
        for attempt in (
            lambda key=key: read(store, key),
            lambda key=key: [*store.read_many([key])],
        ):
            with pytest.raises(ApgmsError, match="not a regular file") as caught:
                attempt()
            assert caught.value.reason == "object_store.unreachable"


def test_a_disk_that_fails_while_it_is_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    store.put_many([("bulk", bytes(2 * CHUNK + 5))])

    def fail(descriptor: int, into: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "readv", fail)
    with pytest.raises(ApgmsError, match="Input/output error"):
        read(store, "bulk")


def test_a_file_system_that_takes_nothing_directly_is_written_and_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some do on the first access only, which no file system here does: the kernel is played."""
    write, readv = os.write, os.readv

    def refuse(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "write", lambda fd, data: refuse(fd) or write(fd, data))
    monkeypatch.setattr(os, "readv", lambda fd, into: refuse(fd) or readv(fd, into))
    data = random.Random(1).randbytes(2 * CHUNK + 5)
    store = FolderStore(tmp_path)
    store.put_many([("bulk", data)])
    assert read(store, "bulk") == data


def test_a_file_system_without_direct_access_serves(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("there is no file system in memory")
    data = random.Random(1).randbytes(2 * CHUNK + 5)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        store = FolderStore(Path(folder))
        store.put_many([("bulk", data)])
        assert read(store, "bulk") == data


def test_a_file_is_stored_like_bytes(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    assert store.put_new("big", source) is True
    assert store.put_new("big", source) is False
    assert read(store, "big") == source.read_bytes()


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing, match="rates/none"):
        read(store, "rates/none")


def test_keys_are_listed_by_prefix_in_order(store: ObjectStore) -> None:
    for key in ("journal/3", "journal/1", "journals", "rates/1", "journal/2"):
        store.put_new(key, b"")
    assert list(store.keys("journal/")) == ["journal/1", "journal/2", "journal/3"]
    assert list(store.keys("none/")) == []


@pytest.mark.parametrize("store", ["folder", "s3"], indirect=True)
def test_one_of_many_writers_wins(store: ObjectStore) -> None:
    def attempt(number: int) -> bool:
        try:
            return store.put_new("race", b"%d" % number)
        except ObjectConflict:
            return False

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    assert outcomes.count(True) == 1
    assert read(store, "race") == b"%d" % outcomes.index(True)


def test_an_overlay_writes_nothing_through(tmp_path: Path) -> None:
    below = FolderStore(tmp_path)
    OverlayStore(below).put_new("a", b"1")
    assert list(tmp_path.iterdir()) == []


class CountedStore(FolderStore):
    """A folder store that notes what it is asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[tuple[str, str]] = []

    def open(self, key: str) -> IO[bytes]:
        self.asked.append(("open", key))
        return super().open(key)

    def keys(self, prefix: str) -> Iterator[str]:
        self.asked.append(("keys", prefix))
        return super().keys(prefix)


def test_an_overlay_asks_once_a_folder_what_is_there(tmp_path: Path) -> None:
    below = CountedStore(tmp_path)
    below.put_many([("tile/1/7", b"7"), ("tile/0/8", b"other")])
    new = [(f"tile/{n % 2}/{n}", b"%d" % n) for n in range(500) if n != 8]
    overlay = OverlayStore(below)
    overlay.put_many(new[:250])
    overlay.put_many(new[250:])
    overlay.put_many(new[:10])  # 7 is compared again
    lists = [("keys", "tile/0/"), ("keys", "tile/1/")]
    assert below.asked == [*lists, ("open", "tile/1/7"), ("open", "tile/1/7")]
    assert [*overlay.read_many(key for key, _data in new)] == [data for _key, data in new]
    with pytest.raises(ObjectConflict):
        overlay.put_many([("tile/0/8", b"8")])
    with pytest.raises(ObjectConflict):
        overlay.put_many([(new[0][0], b"changed")])


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "a//b", "."])
def test_keys_stay_inside_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError):
        FolderStore(tmp_path).put_new(key, b"")


@pytest.mark.parametrize("url", ["", "/srv/store", "file://host/store", "s3://", "http://a/b"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ApgmsError) as error:
        open_object_store(url)
    assert error.value.reason == "object_store.malformed_url"


def test_an_unwritable_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a folder")
    with pytest.raises(ApgmsError) as error:
        FolderStore(tmp_path / "store").put_new("a", b"1")
    assert error.value.reason == "object_store.unreachable"


def test_a_folder_without_rights_is_one_message_that_says_whose(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put_new("a/b", b"1")
    for attempt in (
        lambda: store.put_new("a/c", b"1"),
        lambda: store.put_many([("a/c", b"1")]),
        lambda: read(store, "a/b"),
        lambda: list(store.keys("a/")),
    ):
        with without_rights(tmp_path / "store"), pytest.raises(ApgmsError) as error:
            attempt()
        assert error.value.reason == "object_store.unreachable"
        assert f"Mend: namei -l {tmp_path}/store  # let uid" in str(error.value)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "df -h"),
        (errno.EDQUOT, "df -h"),
        (errno.EROFS, "findmnt -T"),
        (errno.EACCES, "namei -l"),
        (errno.ESTALE, "findmnt -T"),
        (errno.ENOTDIR, "ls -la"),
    ],
)
def test_what_mends_a_folder_fits_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    """Full and read-only file systems cannot be made here without root: the kernel is played."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "the file")

    monkeypatch.setattr(os, "link", fail)
    store = FolderStore(tmp_path)
    for put in (lambda: store.put_new("a", b"1"), lambda: store.put_many([("a", b"1")])):
        with pytest.raises(ApgmsError) as error:
            put()
        assert f"Mend: {mend} {tmp_path}" in str(error.value)
        assert "aws" not in str(error.value)
        assert "the file" in str(error.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_limit_of_open_files_is_mended_by_another_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The machine's own limit cannot be reached by a test: the kernel is played."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ApgmsError, match=r"Too many open files.*Mend: ulimit -n 4096"):
        read(FolderStore(tmp_path), "a")


def test_a_process_that_may_open_few_files_is_told_how_to_open_more(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        with pytest.raises(ApgmsError, match="Mend: ulimit -n 4096"):
            FolderStore(tmp_path).put_many((f"tile/{n}", b"1") for n in range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(FolderStore(tmp_path).keys("")) == []


def test_a_disk_that_fails_when_a_name_is_made_durable_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ApgmsError, match="Input/output error"):
        FolderStore(tmp_path).put_new("a", b"1")


def test_a_disk_that_is_full_in_check_mode_is_one_message(tmp_path: Path) -> None:
    store = OverlayStore(FolderStore(tmp_path))
    store.put_new("fits", b"1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(ApgmsError) as error:
            store.put_new("does not", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert f"Where: file://{tempfile.gettempdir()}. Why: [Errno {errno.EFBIG}]" in str(error.value)
    assert list(store.keys("")) == ["fits"]


def leave_scratch(folder: Path, age: float) -> list[Path]:
    """Leave what a killed writer leaves, so many seconds ago."""
    file, many = folder / f".put-file{age:.0f}", folder / f".put-many{age:.0f}"
    many.mkdir(parents=True)
    (many / "0").write_bytes(b"1")
    file.write_bytes(b"1")
    for path in (file, many):
        os.utime(path, (time.time() - age,) * 2)
    return [file, many]


def test_what_killed_writers_left_is_removed_after_a_day_with_the_next_put(tmp_path: Path) -> None:
    old = leave_scratch(tmp_path, 90_000) + leave_scratch(tmp_path / "journal", 90_000)
    living = leave_scratch(tmp_path, 3000) + leave_scratch(tmp_path / "journal", 3000)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_bytes(b"1")
    (tmp_path / ".put-link").symlink_to(elsewhere)
    os.utime(tmp_path / ".put-link", (0, 0), follow_symlinks=False)
    os.utime(elsewhere, (0, 0))
    store = FolderStore(tmp_path)
    store.put_new("journal/1", b"1")
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in living)
    assert not (tmp_path / ".put-link").is_symlink()
    assert list(store.keys("")) == ["elsewhere/kept", "journal/1"]


def test_what_another_left_that_cannot_be_removed_hinders_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave_scratch(tmp_path, 90_000)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    assert FolderStore(tmp_path).put_new("a", b"1") is True
    assert all(path.exists() for path in left)


def test_an_s3_server_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ApgmsError) as error:
        read(open_object_store("s3://bucket", "http://127.0.0.1:1"), "a")
    assert error.value.reason == "object_store.unreachable"


@pytest.mark.parametrize(
    ("environment", "endpoint", "mend"),
    [
        ({"AWS_PROFILE": "nobody's"}, None, "aws configure list-profiles"),
        ({"AWS_EC2_METADATA_DISABLED": "true"}, None, "aws sso login --profile default"),
        ({}, "no address", "aws sso login --profile default"),
    ],
)
def test_a_session_that_cannot_be_opened_is_one_message_whatever_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    endpoint: str | None,
    mend: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_object_store("s3://bucket", endpoint)
    for attempt in everything_asked_of(store):
        with pytest.raises(ApgmsError) as error:
            attempt()
        assert error.value.reason == "object_store.unreachable"
        assert f"Mend: {mend}  # " in str(error.value)


def everything_asked_of(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put_new("a", b"1"),
        lambda: store.put_many([("a", b"1")]),
        lambda: read(store, "a"),
        lambda: [*store.read_many(["a"])],
        lambda: [*store.keys("")],
    ]


class Refusal(BaseHTTPRequestHandler):
    """Refuses every request with a code alone, as some servers do."""

    def do_GET(self) -> None:
        code = self.server.code  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(404 if code == "NoSuchBucket" else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET  # noqa: N815 - as the base class calls it

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "NoSuchBucket",
            "Why: there is no bucket nobodys (NoSuchBucket). "
            "Mend: aws s3 mb s3://nobodys --endpoint-url {endpoint}  # or correct apgms_object_store",
        ),
        *(
            (
                code,
                f"Why: the access key is not known there, or has another secret ({code}). "
                "Mend: unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; "
                "aws sso login --profile default  # or set these variables rightly",
            )
            for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch")
        ),
    ],
)
def test_a_bucket_or_keys_that_are_wrong_are_named_whatever_is_asked(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    server.code = code  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    store = open_object_store("s3://nobodys/evidence", endpoint)
    for attempt in everything_asked_of(store):
        with pytest.raises(ApgmsError) as error:
            attempt()
        assert error.value.reason == "object_store.unreachable"
        assert message.format(endpoint=endpoint) in str(error.value)
    server.shutdown()
    server.server_close()
