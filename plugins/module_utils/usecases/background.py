# GNU General Public License v3.0+ (see COPYING)
"""Work that one thread does beside the main one, with little of it outstanding at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

OUTSTANDING = 2


class Background:
    """Runs actions one after another; the first that fails raises in the main thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._futures: deque[Future[None]] = deque()

    def submit(self, action: Callable[[], None]) -> None:
        """Run ``action`` soon; wait while two others are outstanding."""
        if len(self._futures) >= OUTSTANDING:
            self._futures.popleft().result()
        self._futures.append(self._pool.submit(action))

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            while self._futures and kind is None:
                self._futures.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
