# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

import io
import tarfile
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.archive import (
    Member,
    write_archive,
)

names = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True)


def archive(files: list[tuple[str, bytes]], **options: bool) -> bytes:
    out = io.BytesIO()
    write_archive(
        out,
        [Member(name, len(data), partial(io.BytesIO, data), **options) for name, data in files],
    )
    return out.getvalue()


@given(st.dictionaries(names, st.binary(max_size=2000)), st.randoms())
def test_the_order_of_the_files_does_not_matter_and_all_come_out(
    files: dict[str, bytes], random: object
) -> None:
    order = list(files.items())
    random.shuffle(order)  # type: ignore[attr-defined]
    data = archive(order)
    assert data == archive(sorted(files.items()))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        found = {member.name: opened.extractfile(member) for member in opened}
        assert {name: stream.read() for name, stream in found.items() if stream} == files


def test_nothing_of_this_machine_is_in_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive([("a", b"x")]))) as opened:
        (member,) = opened.getmembers()
    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert member.mode == 0o644


def test_executables() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive([("a", b"x")], executable=True))) as opened:
        assert opened.getmembers()[0].mode == 0o755


@pytest.mark.parametrize("files", ["a a", "../a", "/a", "a//b", "a/../b", "."])
def test_names_that_cannot_be(files: str) -> None:
    with pytest.raises(ValueError, match="cannot be a member"):
        archive([(name, b"") for name in files.split(" ")])
