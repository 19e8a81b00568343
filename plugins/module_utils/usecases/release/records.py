# GNU General Public License v3.0+ (see COPYING)
"""The row of a release, and the one way to change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.release.release_state import OPEN, State, require_move
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.clock import Clock
from ...ports.gateway import Gateway
from ...ports.object_store import ObjectStore
from ..acts.journal import Journal
from ..acts.lease import Lease
from ..acts.progress import Progress
from ..acts.steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Context:
    """What a release acts with, while it holds the stack's lock."""

    connection: Connection
    store: ObjectStore
    gateway: Gateway
    policy: Policy
    clock: Clock
    steps: Steps
    journal: Journal
    lease: Lease
    operator: str
    operator_key: str
    """Path of the operator's SSH key, which signs the intent."""
    statements_dir: str
    nonce: Callable[[], str]
    """Gives 32 hexadecimal digits that were never used before."""
    progress: Progress


@dataclass(frozen=True)
class Release:
    """A row of ``apgms_release.release``. Times in UTC."""

    manifest_sha256: str
    submission_id: str
    idempotency_key: str
    state: State
    why: str
    endpoint: str
    body_sha256: str
    operator: str
    intent_at: datetime
    attempts: int
    first_sent_at: datetime | None
    last_sent_at: datetime | None
    job_id: str | None
    receipt_sha256: str | None
    changed_at: datetime
    journal_seq: int
    """The journal row of the last change."""


_COLUMNS = tuple(field.name for field in fields(Release))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM apgms_release.release"  # noqa: S608


def find(connection: Connection, manifest_sha256: str) -> Release | None:
    """Return the release of a manifest; None where it was never to be sent."""
    return next(_read(connection, "WHERE manifest_sha256 = %s", [manifest_sha256]), None)


def open_releases(connection: Connection) -> list[Release]:
    """Return the releases whose outcome at the gateway is still to come, oldest first."""
    return list(_read(connection, "WHERE state = ANY(%s) ORDER BY intent_at", [sorted(OPEN)]))


def require_none_open(connection: Connection) -> None:
    """Refuse while a release of this stack is open: no new intent, no rollback.

    :raises ApgmsError: ``release.other_open``
    """
    for release in open_releases(connection):
        raise ApgmsError(
            "release.other_open",
            "Another release of this stack is not finished",
            where=f"release {release.manifest_sha256}",
            why=f"it is {release.state} since {release.changed_at:%Y-%m-%d %H:%M:%S} UTC:"
            f" {release.why}",
            mend="finish it first: make release STACK=prod, with apgms_submission_id set to"
            f" {release.submission_id}",
            manifest_sha256=release.manifest_sha256,
        )


def insert(connection: Connection, release: Release) -> None:
    """Add a release inside an open transaction."""
    connection.execute(
        sql.SQL("INSERT INTO apgms_release.release ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
            sql.SQL(", ").join([sql.Placeholder()] * len(_COLUMNS)),
        ),
        [getattr(release, name) for name in _COLUMNS],
    )


@contextmanager
def guarded(context: Context, manifest_sha256: str) -> Iterator[None]:
    """A transaction of the lock's holder: refused and rolled back where it no longer is.

    :raises ApgmsError: ``lease.lost``
    """
    with context.connection.transaction():
        context.lease.guard(manifest_sha256)
        yield


def move(
    context: Context,
    release: Release,
    state: State,
    why: str,
    effects: Callable[[], dict[str, Any]] = dict,
    event: str | None = None,
    **changes: Any,
) -> Release:
    """Take a release to another state: its row, its effects and its journal row in one commit.

    :param effects: further writes of the same transaction; returns what the journal says of them
    :param event: the journal's name for it; ``release.STATE`` if not given
    :param changes: further columns
    :raises ApgmsError: ``lease.lost``, the journal's reasons, and those of ``effects``
    """
    require_move(release.state, state)
    name = event or f"release.{state.lower()}"

    def commit() -> Release:
        with guarded(context, release.manifest_sha256):
            after = replace(
                release,
                state=state,
                why=why,
                changed_at=context.clock.now(),
                journal_seq=context.journal.next_seq(),
                **changes,
            )
            update(context.connection, after)
            body = {"from": release.state, "to": state, "why": why, **effects()}
            context.journal.record(name, body, release.manifest_sha256)
        return after

    return context.steps.run(name, commit)


def not_finished(release: Release, why: str) -> ApgmsError:
    """Return the failure of a run that ends before its release does."""
    return ApgmsError(
        "release.not_finished",
        f"The release is {release.state}; this run ends here",
        where=f"release {release.manifest_sha256}",
        why=why,
        mend="run the same command again: it goes on from here",
        state=release.state,
        job_id=release.job_id,
    )


def update(connection: Connection, release: Release) -> None:
    """Write a release's row inside an open transaction."""
    assignments = [sql.SQL("{} = %s").format(sql.Identifier(name)) for name in _COLUMNS]
    connection.execute(
        sql.SQL("UPDATE apgms_release.release SET {} WHERE manifest_sha256 = %s").format(
            sql.SQL(", ").join(assignments)
        ),
        [*(getattr(release, name) for name in _COLUMNS), release.manifest_sha256],
    )


def _read(connection: Connection, condition: str, values: list[Any]) -> Iterator[Release]:
    for row in connection.execute(f"{_SELECT} {condition}".encode(), values):
        members = dict(zip(_COLUMNS, row, strict=True))
        yield Release(**{**members, "state": State(members["state"])})
