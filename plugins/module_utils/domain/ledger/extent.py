# GNU General Public License v3.0+ (see COPYING)
"""Which ledger ids a log has admitted, and at which positions of its tree.

An extent is a run of ids with none missing between, at consecutive positions. Within a snapshot
leaves stand in the order of ids; a row that shows up later below ids already admitted begins a new
run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class IdRange(NamedTuple):
    """Ledger ids from ``first`` to ``last``, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many ids these are."""
        return self.last - self.first + 1


class Run(NamedTuple):
    """Ranges of ascending ids, which one ordered scan reads."""

    ranges: tuple[IdRange, ...]

    @property
    def span(self) -> IdRange:
        """From the first id to the last, with whatever is missing between."""
        return IdRange(self.ranges[0].first, self.ranges[-1].last)


def runs(ranges: Iterable[IdRange]) -> Iterator[Run]:
    """Yield the ranges, given in order of position, as runs of ascending ids; neighbours merge."""
    ascending: list[IdRange] = []
    for one in ranges:
        if ascending and one.first <= ascending[-1].last:
            yield Run(tuple(ascending))
            ascending = []
        if ascending and one.first == ascending[-1].last + 1:
            ascending[-1] = IdRange(ascending[-1].first, one.last)
        else:
            ascending.append(one)
    if ascending:
        yield Run(tuple(ascending))


def compress(ids: Iterable[int]) -> list[IdRange]:
    """Return ascending ids as ranges."""
    return [one for run in runs(IdRange(each, each) for each in ids) for one in run.ranges]


def expand(ranges: Iterable[IdRange]) -> Iterator[int]:
    """Yield each id of the ranges; the inverse of :func:`compress`."""
    for one in ranges:
        yield from range(one.first, one.last + 1)


def total(ranges: Iterable[IdRange]) -> int:
    """Return how many ids the ranges hold."""
    return sum(one.size for one in ranges)


def shown(ranges: Sequence[IdRange], limit: int = 20) -> str:
    """Return ids for a message, such as ``3, 7-9 and 2 more ranges``."""
    parts = [str(one.first) if one.size == 1 else f"{one.first}-{one.last}" for one in ranges]
    more = f" and {len(parts) - limit} more ranges" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more
