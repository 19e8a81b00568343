# GNU General Public License v3.0+ (see COPYING)
"""Work that threads do beside the main one, with little of it outstanding at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def in_order(action: Callable[[A], R], items: Iterable[A], threads: int) -> Iterator[R]:
    """Yield what ``action`` returns for each item, in their order; where it raises, so does this.

    Items are taken as threads become free. All actions have ended once the iterator has.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            if len(pending) > threads:
                yield pending.popleft().result()
            pending.append(pool.submit(action, item))
        while pending:
            yield pending.popleft().result()
