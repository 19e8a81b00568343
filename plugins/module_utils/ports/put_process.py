# GNU General Public License v3.0+ (see COPYING)
"""Objects put by a process of its own, while the one that makes them goes on.

Storing thousands of small files takes a processor, and threads of one Python process share one. The
bytes pass through shared memory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias

from .object_store import Objects, PutHere, Putter

BATCHES = 3
BATCH_BYTES = 24 << 20
"""Room for one batch; a larger one is put by the process that made it."""
_DONE = b"."

_Shared: TypeAlias = Iterable["tuple[str, bytes | memoryview]"]


class _Batch(NamedTuple):
    """Objects in the shared memory: key, where they begin and where they end."""

    number: int
    places: list[tuple[str, int, int]]


@contextlib.contextmanager
def put_beside(put_many: Callable[[_Shared], None]) -> Iterator[Putter]:
    """Yield what has ``put_many`` done by a process of its own, or here where none can be had.

    Where that process fails or dies, what it has not put is put here, so that its error shows here.
    Enter this before any thread is started: the process is a fork, and closes every file it has.
    """
    try:
        process = _PutProcess(put_many)
    except OSError:  # too many processes or files, or too little memory
        yield PutHere(put_many)
        return
    try:
        yield process
    finally:
        process.end()


class _PutProcess:
    def __init__(self, put_many: Callable[[_Shared], None]) -> None:
        self._put_many = put_many
        self._memory = mmap.mmap(-1, BATCHES * BATCH_BYTES)
        self._free = deque(range(BATCHES))
        self._begun: deque[_Batch] = deque()
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            _close(orders, answers, self._orders, self._answers)
            raise
        if self._pid == 0:
            self._serve(orders, answers)
        _close(orders, answers)

    def put(self, objects: Objects) -> None:
        if sum(len(part) for _key, parts in objects for part in parts) > BATCH_BYTES:
            self._put_many([(key, b"".join(parts)) for key, parts in objects])
            return
        while not self._free:
            self._settle_oldest()
        batch = self._shared(self._free.popleft(), objects)
        self._begun.append(batch)
        order = memoryview(json.dumps(batch).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):  # it has died: its answers end here
            while order:
                order = order[os.write(self._orders, order) :]

    def settle(self) -> None:
        while self._begun:
            self._settle_oldest()

    def end(self) -> None:
        """Let the process put what it was given, and wait for its end."""
        os.close(self._orders)
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: nothing is left of it
            os.waitpid(self._pid, 0)
        os.close(self._answers)

    def _settle_oldest(self) -> None:
        done = os.read(self._answers, 1)
        batch = self._begun.popleft()
        if not done:
            self._put_many(self._objects(batch))
        self._free.append(batch.number)

    def _shared(self, number: int, objects: Objects) -> _Batch:
        self._memory.seek(number * BATCH_BYTES)
        places = []
        for key, parts in objects:
            begin = self._memory.tell()
            for part in parts:
                self._memory.write(part)
            places.append((key, begin, self._memory.tell()))
        return _Batch(number, places)

    def _objects(self, batch: _Batch) -> _Shared:
        memory = memoryview(self._memory)
        return [(key, memory[begin:end]) for key, begin, end in batch.places]

    def _serve(self, orders: int, answers: int) -> NoReturn:
        """Put batches until the other side closes the pipe; any error ends the process."""
        try:
            _close(self._orders, self._answers)
            _close_all_but({0, 1, 2, orders, answers})
            with os.fdopen(orders, "rb") as lines:
                for line in lines:
                    self._put_many(self._objects(_Batch(*json.loads(line))))
                    os.write(answers, _DONE)
        finally:
            os._exit(0)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _close_all_but(kept: set[int]) -> None:
    for descriptor in {int(each.name) for each in Path("/dev/fd").iterdir()} - kept:
        with contextlib.suppress(OSError):  # the one that listed them
            os.close(descriptor)
