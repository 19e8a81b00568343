# GNU General Public License v3.0+ (see COPYING)
"""Work that threads do beside the main one, with little of it outstanding at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Action = Callable[[], None]


@contextmanager
def background(threads: int) -> Iterator[Callable[[Action], None]]:
    """Yield a function that hands actions to threads; an action that failed raises here.

    All actions have ended once the block has.
    """
    futures: deque[Future[None]] = deque()

    def submit(action: Action) -> None:
        if len(futures) > threads:
            futures.popleft().result()
        futures.append(pool.submit(action))

    with ThreadPoolExecutor(threads) as pool:
        yield submit
        for future in futures:
            future.result()
