"""One behaviour, three adapters: a folder, S3 (an emulated server), the check-mode overlay."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    BLOCK_BYTES as BLOCK,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    CHUNK_BYTES as CHUNK,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    FolderStore,
    ObjectConflict,
    ObjectMissing,
    ObjectStore,
    OverlayStore,
    open_object_store,
    read,
)


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


def test_an_s3_server_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ApgmsError) as error:
        read(open_object_store("s3://bucket", "http://127.0.0.1:1"), "a")
    assert error.value.reason == "object_store.unreachable"
