# GNU General Public License v3.0+ (see COPYING)
"""Work that a thread does beside the main one, with little of it outstanding at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from queue import Full, Queue

from ..ports.object_store import ObjectStore

OUTSTANDING = 2
LOOK_SECONDS = 0.5

Objects = Iterable[tuple[str, bytes]]
Action = Callable[[], None]


@contextmanager
def background() -> Iterator[Callable[[Action], None]]:
    """Yield a function that hands actions to a thread; the first that failed raises here."""
    futures: deque[Future[None]] = deque()

    def submit(action: Action) -> None:
        if len(futures) >= OUTSTANDING:
            futures.popleft().result()
        futures.append(pool.submit(action))

    with ThreadPoolExecutor(1) as pool:
        yield submit
        for future in futures:
            future.result()


@contextmanager
def storing(store: ObjectStore) -> Iterator[Callable[[Objects], None]]:
    """Yield a function that hands batches of objects to one ``put_many`` of a thread.

    All of them are durable once the block has ended.
    """
    queue: Queue[Objects | None] = Queue(OUTSTANDING)

    def send(objects: Objects | None) -> None:
        while not done.done():
            try:
                return queue.put(objects, timeout=LOOK_SECONDS)
            except Full:
                continue
        return done.result()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(store.put_many, chain.from_iterable(iter(queue.get, None)))
        try:
            yield send
        finally:
            send(None)
        done.result()
