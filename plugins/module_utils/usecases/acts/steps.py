# GNU General Public License v3.0+ (see COPYING)
"""The persisted steps of an act, which go through one function (docs/architecture.md says whose).

Between any two of them a process may die. The crash tests hook in here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Steps:
    """Runs named steps. A step may hold others: a commit holds the put of its journal row."""

    def __init__(self) -> None:
        self._running: list[str] = []

    @property
    def running(self) -> str | None:
        """The innermost step that is running now."""
        return self._running[-1] if self._running else None

    def run(self, name: str, action: Callable[[], T]) -> T:
        """Run one commit, put or send.

        :param name: ``act.step``, such as ``release.intent``
        """
        self.reach(name, "before")
        self._running.append(name)
        try:
            result = action()
        finally:
            self._running.pop()
        self.reach(name, "after")
        return result

    def reach(self, name: str, side: str) -> None:
        """A point between steps; ``side`` is ``before`` or ``after``. The tests override this."""
