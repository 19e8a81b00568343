# GNU General Public License v3.0+ (see COPYING)
"""One lock per stack, across operators and controllers: a lease row with a fencing token.

The holder proves itself in every transaction (:meth:`Lease.guard`). A lease ends when its holder
gives it back, when its database session ends, when it was not renewed in time by the database's
clock, or when a signed statement breaks it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ApgmsError
from ...libraries import psycopg
from ...ports.clock import Clock, iso_utc
from .steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection

LEASE_SECONDS = 120
SESSION_LOCK_CLASS = 0x6C656173  # "leas", for pg_advisory_lock(class, token)


@dataclass
class Lease:
    """A stack's lock while it is held."""

    connection: Connection
    stack: str
    token: int
    holder: str
    seconds: int
    steps: Steps
    renewed: float
    """By this machine's clock, which unlike a monotonic one goes on while the machine sleeps."""

    def guard(self, manifest_sha256: str | None = None) -> None:
        """Inside an open transaction: refuse unless the lease is still held; renew it.

        :param manifest_sha256: the release that the holder now works on
        :raises ApgmsError: ``lease.lost``
        """
        found = self.connection.execute(
            "UPDATE apgms_release.lease"
            " SET expires_at = clock_timestamp() + make_interval(secs => %s),"
            " manifest_sha256 = coalesce(%s, manifest_sha256)"
            " WHERE stack = %s AND token = %s RETURNING token",
            [self.seconds, manifest_sha256, self.stack, self.token],
        ).fetchone()
        if found is None:
            raise _lost(self.connection, self.stack, self.token)
        self.renewed = time.time()

    def wait(self, clock: Clock, seconds: float) -> None:
        """Sleep, in slices short enough to renew the lease after each.

        :raises ApgmsError: ``lease.lost``
        """
        longest = self.seconds / 4
        while seconds > 0:
            clock.sleep(min(seconds, longest))
            self.renew()
            seconds -= longest

    def renew(self) -> None:
        """Outside a transaction: refuse unless the lease is still held; renew it.

        :raises ApgmsError: ``lease.lost``
        """

        def commit() -> None:
            with self.connection.transaction():
                self.guard()

        self.steps.run("lease.renew", commit)

    def keep(self) -> bool:
        """During long work: renew when a quarter of the lease has passed; return whether it did.

        :raises ApgmsError: ``lease.lost``
        """
        due = abs(time.time() - self.renewed) > self.seconds / 4
        if due:
            self.renew()
        return due


@contextmanager
def hold(
    connection: Connection,
    stack: str,
    holder: str,
    purpose: str,
    *,
    manifest_sha256: str | None = None,
    break_token: int | None = None,
    seconds: int = LEASE_SECONDS,
    steps: Steps | None = None,
) -> Iterator[Lease]:
    """Hold the stack's lock.

    :param holder: who, as other operators will read it: ``operator@host pid 123``
    :param purpose: what for: ``release``, ``rollback``
    :param break_token: the token of a live lease that a verified ``lock_break`` statement names
    :raises ApgmsError: ``lease.busy``
    """
    steps = steps or Steps()
    tenure = _Tenure(stack, holder, purpose, manifest_sha256, seconds)
    token = steps.run("lease.take", lambda: _take(connection, tenure, break_token))
    lease = Lease(connection, stack, token, holder, seconds, steps, time.time())
    try:
        yield lease
    finally:
        # a broken session has ended the lease already
        with suppress(psycopg.OperationalError, psycopg.InterfaceError):
            steps.run("lease.give_back", lambda: _give_back(lease))


def current(connection: Connection, stack: str) -> dict[str, Any] | None:
    """Return who holds the lock: token, holder, purpose, manifest, since, expires_at, live."""
    found = connection.execute(_CURRENT, [SESSION_LOCK_CLASS, stack]).fetchone()
    if found is None or found[1] is None:
        return None
    names = ("token", "holder", "purpose", "manifest_sha256", "since", "expires_at", "live")
    return dict(zip(names, found, strict=True))


# live: not expired, and the session that took it still holds its advisory lock
_CURRENT = """
SELECT token, holder, purpose, manifest_sha256, since, expires_at,
       expires_at > clock_timestamp() AND EXISTS (
           SELECT FROM pg_locks
           WHERE locktype = 'advisory' AND granted AND objsubid = 2
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND classid = %s::bigint AND objid = (token & 2147483647))
FROM apgms_release.lease WHERE stack = %s
"""


@dataclass(frozen=True)
class _Tenure:
    """Who wants the lock, what for, and for how long without being renewed."""

    stack: str
    holder: str
    purpose: str
    manifest_sha256: str | None
    seconds: int


def _take(connection: Connection, tenure: _Tenure, break_token: int | None) -> int:
    with connection.transaction():
        _lock_row(connection, tenure.stack)
        before = current(connection, tenure.stack)
        if before and before["live"] and before["token"] != break_token:
            raise _busy(tenure.stack, before)
        token = _begin(connection, tenure)
        connection.execute("SELECT pg_advisory_lock(%s, %s)", _session_lock(token))
    # a holder that stops inside a transaction must not keep its row locks past its lease
    connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
        [f"{tenure.seconds}s"],
    )
    return token


def _lock_row(connection: Connection, stack: str) -> None:
    connection.execute(
        "INSERT INTO apgms_release.lease (stack, token) VALUES (%s, 0) ON CONFLICT DO NOTHING",
        [stack],
    )
    connection.execute("SELECT FROM apgms_release.lease WHERE stack = %s FOR UPDATE", [stack])


def _begin(connection: Connection, tenure: _Tenure) -> int:
    found = connection.execute(
        "UPDATE apgms_release.lease SET token = token + 1, holder = %(holder)s,"
        " purpose = %(purpose)s, manifest_sha256 = %(manifest_sha256)s, since = clock_timestamp(),"
        " expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)"
        " WHERE stack = %(stack)s RETURNING token",
        vars(tenure),
    ).fetchone()
    if found is None:
        raise AssertionError("the lease row was locked by this transaction")
    return int(found[0])


def _give_back(lease: Lease) -> None:
    with lease.connection.transaction():
        lease.connection.execute(
            "UPDATE apgms_release.lease SET holder = NULL, purpose = NULL, manifest_sha256 = NULL,"
            " since = NULL, expires_at = NULL WHERE stack = %s AND token = %s",
            [lease.stack, lease.token],
        )
    lease.connection.execute("SELECT pg_advisory_unlock(%s, %s)", _session_lock(lease.token))


def _session_lock(token: int) -> list[int]:
    return [SESSION_LOCK_CLASS, token & 0x7FFFFFFF]


def _busy(stack: str, before: dict[str, Any]) -> ApgmsError:
    return ApgmsError(
        "lease.busy",
        f"Another run holds the lock of stack {stack}",
        where=f"{before['holder']}, for {before['purpose']}",
        why=f"it holds the lock since {iso_utc(before['since'])} on release"
        f" {before['manifest_sha256'] or '(none yet)'}, lease {before['token']}, renewed until"
        f" {iso_utc(before['expires_at'])}",
        mend="wait until it has finished; where it hangs, a signed lock_break statement for lease"
        f" {before['token']} breaks it",
        holder=before["holder"],
        since=iso_utc(before["since"]),
        manifest_sha256=before["manifest_sha256"],
        lease_token=before["token"],
    )


def _lost(connection: Connection, stack: str, token: int) -> ApgmsError:
    now = current(connection, stack)
    return ApgmsError(
        "lease.lost",
        f"This run no longer holds the lock of stack {stack}; its write was refused",
        where=f"lease {token}",
        why=f"{now['holder']} took the lock over as lease {now['token']}"
        if now
        else "the lock was taken over and given back since",
        mend="run the same command again: it goes on from what is recorded",
    )
