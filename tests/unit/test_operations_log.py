from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.callback.operations_log import _last_line
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.operations_log import (
    BrokenLog,
    Head,
    entry_line,
    verify,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import read
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence.operations_log import (
    archive_log,
    verify_log,
)


def log_of(count: int) -> list[bytes]:
    lines: list[bytes] = []
    for number in range(count):
        lines.append(entry_line(lines[-1] if lines else None, {"task": f"step {number}"}))
    return lines


def test_an_empty_log_verifies() -> None:
    assert verify([]) == Head(0, "")


@given(st.integers(1, 8), st.data())
def test_any_changed_dropped_or_swapped_line_is_found(count: int, data: st.DataObject) -> None:
    lines = log_of(count + 1)
    verify(lines)
    at = data.draw(st.integers(0, count - 1))
    change = data.draw(st.sampled_from(["edit", "drop", "swap"]))
    if change == "edit":
        lines[at] = lines[at].replace(b"step", b"stop")
    elif change == "drop":
        del lines[at]
    else:
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    with pytest.raises(BrokenLog):
        verify(lines)


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 20_000])
def test_the_last_line_is_found_from_the_end(tmp_path: Path, length: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"x" * length + b"\n")
    with path.open("rb") as log:
        assert _last_line(log) == b"x" * length
    path.write_bytes(b"")
    with path.open("rb") as log:
        assert _last_line(log) is None


def test_a_log_is_archived_once_under_its_head(tmp_path: Path) -> None:
    path = tmp_path / "operations.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in log_of(3)))
    store = FolderStore(tmp_path / "store")
    head, stored = archive_log(path, store)
    assert (head.entries, stored) == (3, True)
    assert read(store, f"operations/{head.sha256}.jsonl") == path.read_bytes()
    assert archive_log(path, store) == (head, False)


def test_a_broken_log_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "operations.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in log_of(3)).replace(b"step 1", b"step 9"))
    with pytest.raises(ApgmsError, match=r"operations.jsonl, line 3") as error:
        verify_log(path)
    assert error.value.reason == "operations_log.broken"


def test_a_missing_log_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ApgmsError) as error:
        verify_log(tmp_path / "none")
    assert error.value.reason == "operations_log.unreadable"
