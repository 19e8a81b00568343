# GNU General Public License v3.0+ (see COPYING)
"""A run of a release in a process of its own, halted at every step until it is told to go on."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import release
from tests.faults.stack import Stack

GO, CUT, DIE = b"g", b"c", b"k"
BLOCKED_SECONDS = 0.5
"""After this time without a step an actor is taken to wait for another one's lock."""


@dataclass(frozen=True)
class Point:
    """Where an actor stands: before or after a step."""

    name: str
    side: str

    def __str__(self) -> str:
        return f"{self.side} {self.name}"


class Actor:
    """A forked process that releases ``manifest`` on ``stack``.

    :param name: the holder of the lock, as others read it
    :param mutate: called in the process first, to take a safeguard away
    """

    def __init__(
        self,
        stack: Stack,
        manifest: Manifest,
        name: str,
        mutate: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> None:
        self.name = name
        self.manifest = manifest
        self.at: Point | None = None
        self.result: dict[str, Any] | None = None
        reports, child_reports = os.pipe()
        child_orders, orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reports)
            os.close(orders)
            _play(stack, manifest, name, mutate, changes, child_reports, child_orders)
        os.close(child_reports)
        os.close(child_orders)
        self._reports, self._orders = reports, orders
        self._buffer = b""

    @property
    def ended(self) -> bool:
        return self.result is not None

    def wait(self, seconds: float = 30.0) -> bool:
        """Wait until it stands at its next step, or has ended; return whether it does."""
        while b"\n" not in self._buffer:
            if not select.select([self._reports], [], [], seconds)[0]:
                return False
            data = os.read(self._reports, 65536)
            if not data:
                self._end({"killed": True})
                return True
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        report = json.loads(line)
        if "at" in report:
            self.at = Point(*report["at"])
        else:
            self._end(report)
        return True

    def order(self, order: bytes = GO) -> None:
        """Let it go on, cut its database session off, or kill it (SIGKILL)."""
        self.at = None
        if order == DIE:
            self.kill()
        else:
            os.write(self._orders, order)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        if self.result is None:
            os.kill(self.pid, signal.SIGKILL)
            self._end({"killed": True})

    def run(self) -> dict[str, Any]:
        """Let it run to its end; return its result."""
        if self.at is not None:
            self.order()
        while self.wait() and self.result is None:
            self.order()
        if self.result is None:
            self.kill()
            raise TimeoutError(f"{self.name} hangs")
        return self.result

    def _end(self, result: dict[str, Any]) -> None:
        self.result = result
        self.at = None
        os.waitpid(self.pid, 0)
        os.close(self._reports)
        os.close(self._orders)


class _HaltingSteps(Steps):
    def __init__(self, reports: int, orders: int, cut: Callable[[], None]) -> None:
        super().__init__()
        self._reports, self._orders, self._cut = reports, orders, cut

    def reach(self, name: str, side: str) -> None:
        os.write(self._reports, json.dumps({"at": [name, side]}).encode() + b"\n")
        if os.read(self._orders, 1) == CUT:
            self._cut()


def _play(
    stack: Stack,
    manifest: Manifest,
    name: str,
    mutate: Callable[[], None],
    changes: dict[str, Any],
    reports: int,
    orders: int,
) -> None:
    """Never returns: the process ends without the parent's clean-up."""
    report: dict[str, Any] = {"reason": "crashed"}
    try:
        mutate()
        report = _release(stack, manifest, name, changes, reports, orders)
    except ApgmsError as error:
        report = {"reason": error.reason, "message": str(error)}
    except BaseException:
        report = {"reason": "crashed", "message": traceback.format_exc()}
    finally:
        os.write(reports, json.dumps(report).encode() + b"\n")
        os._exit(0)


def _release(
    stack: Stack,
    manifest: Manifest,
    name: str,
    changes: dict[str, Any],
    reports: int,
    orders: int,
) -> dict[str, Any]:
    with stack.connection() as connection:
        backend = connection.info.backend_pid

        def cut() -> None:
            with psycopg.connect(stack.database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [backend])

        ports = stack.ports(connection, steps=_HaltingSteps(reports, orders, cut))
        done = release.release(stack.order(manifest, holder=name, **changes), ports)
    return {"state": done.after.state, "changed": done.before != done.after}
