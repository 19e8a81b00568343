# GNU General Public License v3.0+ (see COPYING)
"""Who changes the ledger log takes his turn: a snapshot, or the opening of a new origin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, LiteralString

from ...domain.approval.policy import Policy
from ...errors import ApgmsError
from ...ports.clock import Clock
from .rows import POLL_SECONDS, in_transaction, is_idle

if TYPE_CHECKING:
    from ...ports.database import Connection

WAIT_SECONDS = 30.0


@contextlib.contextmanager
def one_at_a_time(
    connection: Connection, policy: Policy, clock: Clock, wait_seconds: float
) -> Iterator[None]:
    """Hold the lock of this log's snapshots; no writer of the ledger is blocked by it.

    :raises ApgmsError: ``log.busy``
    """
    key = [f"apgms.release log {policy.log.origin}"]
    waited = 0.0
    while not _one(connection, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", key):
        if waited >= wait_seconds:
            raise ApgmsError(
                "log.busy",
                "Another ledger snapshot is being taken",
                where=f"log {policy.log.origin}",
                why=f"it has not ended within {wait_seconds:.0f} s",
                mend="wait for it, then run the same command again",
            )
        clock.sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    try:
        yield
    finally:
        if is_idle(connection) or in_transaction(connection):  # else it goes with the connection
            _one(connection, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)


def _one(connection: Connection, query: LiteralString, parameters: list[str]) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]
