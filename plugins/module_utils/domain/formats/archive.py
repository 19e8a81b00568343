# GNU General Public License v3.0+ (see COPYING)
"""Deterministic archives: the same files give the same bytes.

A POSIX ustar without compression, since compressors differ between machines; members in order of
name, owner root, time zero.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``open`` gives its ``size`` bytes anew."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    executable: bool = False


def write_archive(out: IO[bytes], members: Iterable[Member]) -> None:
    """Write the members to ``out``.

    :raises ValueError: for names that stand twice, are absolute, or leave the folder
    """
    names: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in sorted(members, key=lambda member: member.name):
            _require_own_name(member.name, names)
            names.add(member.name)
            with member.open() as stream:
                archive.addfile(_header(member), stream)


def _header(member: Member) -> tarfile.TarInfo:
    header = tarfile.TarInfo(member.name)
    header.size = member.size
    header.mode = 0o755 if member.executable else 0o644
    return header


def _require_own_name(name: str, names: set[str]) -> None:
    parts = name.split("/")
    if name in names or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} cannot be a member of the archive")
