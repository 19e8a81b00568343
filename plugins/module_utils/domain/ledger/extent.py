# GNU General Public License v3.0+ (see COPYING)
"""Which ledger ids a log has admitted, and at which positions of its tree.

An extent is a stretch of ascending ids at consecutive positions. Within a snapshot leaves stand in
the order of ids; rows that show up later, below ids already admitted, are in extents apart from theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from operator import sub
from typing import NamedTuple

EXTENT_IDS = 1000
"""How many ids an extent has at most, where some are missing between."""
LEAST_ID = -(2**63)
MOST_ID = 2**63 - 1
NAMED_RANGES = 1000
"""How many ranges a result names at most."""
_COUNTS = re.compile(r"[0-9 ]+")


class IdRange(NamedTuple):
    """Ledger ids from ``first`` to ``last``, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many ids these are."""
        return self.last - self.first + 1


_BEYOND = IdRange(MOST_ID + 1, MOST_ID + 1)
"""What stands for the range after the last."""


class Extent(NamedTuple):
    """Ascending ids at consecutive positions.

    ``runs`` says how many ids follow each other from ``first`` on, how many are missing then, and
    so on in turn: from 5 on, ``3 2 1`` are 5, 6, 7 and 10.
    """

    first: int
    last: int
    size: int
    runs: str

    @property
    def gapless(self) -> bool:
        """Whether no id is missing between."""
        return self.last - self.first + 1 == self.size

    def ids(self) -> Iterator[int]:
        """Yield the ids."""
        return expand(self.ranges())

    def ranges(self) -> Iterator[IdRange]:
        """Yield the ids as ranges with none missing."""
        counts = [*map(int, self.runs.split(" ")), 0]
        first = self.first
        for there, missing in zip(counts[::2], counts[1::2], strict=True):
            yield IdRange(first, first + there - 1)
            first += there + missing


def parse_extent(first: str, runs: str) -> Extent:
    """Return an extent as its first id and its runs give it.

    :raises ValueError: where they are not numbers, or no extent
    """
    counts = list(map(int, runs.split(" ")))
    if len(counts) % 2 == 0 or min(counts) < 1 or not _COUNTS.fullmatch(runs):
        raise ValueError(f"{runs[:40]!r} does not say in turn how many ids are there and missing")
    begin = int(first)
    last = begin + sum(counts) - 1
    if not LEAST_ID <= begin <= last <= MOST_ID:
        raise ValueError(f"{begin} to {last} are no ledger ids")
    return Extent(begin, last, sum(counts[::2]), runs)


def extents(portions: Iterable[Sequence[int]]) -> list[Extent]:
    """Return ascending ids, which come in portions, as extents; neighbours without a gap are one."""
    found: list[Extent] = []
    for ids in portions:
        for at in range(0, len(ids), EXTENT_IDS):
            one = _extent(ids[at : at + EXTENT_IDS])
            if found and _one_run(found[-1], one):
                one = whole(found.pop().first, one.last)
            found.append(one)
    return found


def _one_run(before: Extent, after: Extent) -> bool:
    return before.gapless and after.gapless and before.last + 1 == after.first


def whole(first: int, last: int) -> Extent:
    """Return the extent of all ids from ``first`` to ``last``."""
    size = last - first + 1
    return Extent(first, last, size, str(size))


def _extent(ids: Sequence[int]) -> Extent:
    counts, begin = [], 0
    for place, step in enumerate(map(sub, ids[1:], ids), 1):
        if step != 1:
            counts += [place - begin, step - 1]
            begin = place
    counts.append(len(ids) - begin)
    return Extent(ids[0], ids[-1], len(ids), " ".join(map(str, counts)))


class Scan(NamedTuple):
    """What one ordered scan of the ledger reads: the rows whose ids lie in ``span``.

    ``only``: those of them that it wants, None for all; ``without``: those that it does not.
    """

    span: IdRange
    only: tuple[IdRange, ...] | None = None
    without: tuple[IdRange, ...] = ()


def scans(ranges: Iterable[IdRange]) -> Iterator[Scan]:
    """Yield the scans that read the ids of ``ranges``, in this order; neighbours are read at once."""
    ascending: list[IdRange] = []
    for one in ranges:
        if ascending and one.first <= ascending[-1].last:
            yield _scan(ascending)
            ascending = []
        _join(ascending, one)
    if ascending:
        yield _scan(ascending)


def _scan(ascending: list[IdRange]) -> Scan:
    span = IdRange(ascending[0].first, ascending[-1].last)
    return Scan(span, tuple(ascending) if len(ascending) > 1 else None)


def compress(ids: Iterable[int]) -> list[IdRange]:
    """Return ascending ids as ranges."""
    known = list(ids)
    breaks = [place for place, step in enumerate(map(sub, known[1:], known), 1) if step != 1]
    ends = [0, *breaks, len(known)] if known else []
    return [IdRange(known[begin], known[end - 1]) for begin, end in pairwise(ends)]


def ranges_of(extents: Iterable[Extent]) -> Iterator[IdRange]:
    """Yield the ids of extents as ranges with none missing."""
    for one in extents:
        yield from one.ranges()


def expand(ranges: Iterable[IdRange]) -> Iterator[int]:
    """Yield each id of the ranges; the inverse of :func:`compress`."""
    for one in ranges:
        yield from range(one.first, one.last + 1)


def differences(
    ranges: Iterable[IdRange], others: Iterable[IdRange]
) -> Iterator[tuple[IdRange, bool]]:
    """Yield the ids in one of two ascending sequences alone, and whether it is the first of them."""
    left, right = iter(ranges), iter(others)
    one, other = next(left, _BEYOND), next(right, _BEYOND)
    while (one, other) != (_BEYOND, _BEYOND):
        if one.first < other.first:
            end = min(one.last, other.first - 1)
            yield IdRange(one.first, end), True
            one = _above(end, one, left)
        elif other.first < one.first:
            end = min(other.last, one.first - 1)
            yield IdRange(other.first, end), False
            other = _above(end, other, right)
        else:
            end = min(one.last, other.last)
            one, other = _above(end, one, left), _above(end, other, right)


def _above(end: int, one: IdRange, rest: Iterator[IdRange]) -> IdRange:
    return IdRange(end + 1, one.last) if end < one.last else next(rest, _BEYOND)


def at_places(
    ranges: Iterable[IdRange], places: Iterable[tuple[int, int]]
) -> Iterator[list[IdRange]]:
    """Yield, for each first place and end, the ids of ``ranges`` that stand there.

    :param places: ascending, none twice; the first id of ``ranges`` has place 0
    """
    rest = iter(ranges)
    one, place = next(rest, None), 0
    for first, end in places:
        found: list[IdRange] = []
        while one and place < end:
            low, high = max(first - place, 0), min(end - place, one.size)
            if low < high:
                _join(found, IdRange(one.first + low, one.first + high - 1))
            if place + one.size > end:
                break
            place += one.size
            one = next(rest, None)
        yield found


def _join(ascending: list[IdRange], one: IdRange) -> None:
    """Append a range; neighbours are one."""
    if ascending and one.first == ascending[-1].last + 1:
        one = IdRange(ascending.pop().first, one.last)
    ascending.append(one)


def total(ranges: Iterable[IdRange]) -> int:
    """Return how many ids the ranges hold."""
    return sum(one.size for one in ranges)


def pairs(ranges: Iterable[IdRange], limit: int | None = None) -> list[list[str]]:
    """Return the first ranges, ``limit`` at most, as JSON values: pairs of strings."""
    return [[str(one.first), str(one.last)] for one in islice(ranges, limit)]


def shown(ranges: Sequence[IdRange], limit: int = 20) -> str:
    """Return ids for a message, such as ``3, 7-9 and 2 more ranges``."""
    parts = [str(one.first) if one.size == 1 else f"{one.first}-{one.last}" for one in ranges]
    more = f" and {len(parts) - limit} more ranges" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more
