"""Objects put by a process of its own: all of them, whatever becomes of that process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports import put_process
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
    ObjectConflict,
    read,
)
from tests.conftest import ROOT


def batches(count: int) -> list[list[tuple[str, list[bytes]]]]:
    return [
        [(f"{batch}/{number}", [os.urandom(50_000), os.urandom(50_000)]) for number in range(5)]
        for batch in range(count)
    ]


def joined(objects: Iterable[tuple[str, list[bytes]]]) -> dict[str, bytes]:
    return {key: b"".join(parts) for key, parts in objects}


def stored(store: FolderStore) -> dict[str, bytes]:
    return {key: read(store, key) for key in store.keys("")}


def put_process_of(putter: Any) -> int:
    return int(putter._pid)


def test_all_objects_are_stored_once_it_is_settled(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    made = batches(20)
    with store.putting() as putter:
        for batch in made:
            putter.put(batch)
        putter.settle()
        assert stored(store) == joined(chain.from_iterable(made))
    with pytest.raises(ChildProcessError):
        os.waitpid(put_process_of(putter), 0)


def test_a_batch_larger_than_the_shared_memory_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_process, "BATCH_BYTES", 1 << 18)
    store = FolderStore(tmp_path)
    large, small = ("large", [os.urandom(1 << 19)]), ("small", [b"1"])
    with store.putting() as putter:
        putter.put([small])
        putter.put([large])
        putter.settle()
        assert stored(store) == joined([large, small])


def test_what_a_process_that_died_has_not_stored_is_stored_here(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    made = batches(8)
    with store.putting() as putter:
        for number, batch in enumerate(made):
            if number == 4:
                os.kill(put_process_of(putter), signal.SIGKILL)
            putter.put(batch)
        putter.settle()
        assert stored(store) == joined(chain.from_iterable(made))


def test_an_object_that_is_there_with_other_bytes_is_refused_where_it_was_put(
    tmp_path: Path,
) -> None:
    store = FolderStore(tmp_path)
    store.put_new("1/2", b"other")
    with store.putting() as putter, pytest.raises(ObjectConflict):
        for batch in batches(8):
            putter.put(batch)
        putter.settle()
    assert read(store, "1/2") == b"other"


def test_a_folder_that_cannot_be_written_is_refused_where_objects_were_put(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with FolderStore(tmp_path / "file").putting() as putter:
        putter.put([("key", [b"1"])])
        with pytest.raises(ApgmsError, match="object store cannot be used"):
            putter.settle()


def test_files_of_the_one_that_made_it_are_closed_in_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with FolderStore(tmp_path).putting():
        os.close(writing)
        assert os.read(reading, 1) == b""
    os.close(reading)


def test_it_is_waited_for_where_the_status_of_processes_is_lost(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with FolderStore(tmp_path).putting() as putter:
            putter.put([("key", [b"1"])])
            putter.settle()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert stored(FolderStore(tmp_path)) == {"key": b"1"}


def test_objects_are_stored_where_no_process_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    open_before = len(list(Path("/dev/fd").iterdir()))
    with FolderStore(tmp_path).putting() as putter:
        putter.put([("key", [b"1", b"2"])])
        putter.settle()
    assert stored(FolderStore(tmp_path)) == {"key": b"12"}
    assert len(list(Path("/dev/fd").iterdir())) == open_before


def test_it_ends_where_the_standard_files_are_closed(tmp_path: Path) -> None:
    code = f"""
    import os
    from pathlib import Path
    from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
    for descriptor in range(3):
        os.close(descriptor)
    with FolderStore(Path({str(tmp_path)!r})).putting() as putter:
        putter.put([("key", [b"1"])])
        putter.settle()
    """
    path = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    code = textwrap.dedent(code)
    assert subprocess.run([sys.executable, "-c", code], env=path, timeout=60).returncode == 0
    assert stored(FolderStore(tmp_path)) == {"key": b"1"}


def test_it_ends_with_the_one_that_made_it(tmp_path: Path) -> None:
    code = f"""
    import sys, time
    from pathlib import Path
    from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import (
        FolderStore,
    )
    with FolderStore(Path({str(tmp_path)!r})).putting() as putter:
        print(putter._pid, flush=True)
        time.sleep(60)
    """
    path = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=path, stdout=subprocess.PIPE, text=True
    ) as made:
        assert made.stdout
        child = int(made.stdout.readline())
        assert alive(child)
        made.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
