# GNU General Public License v3.0+ (see COPYING)
"""A new origin after a restore: the old log is left as evidence, and named by the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...errors import ApgmsError
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ..acts.progress import Progress, say_into
from ..approvals.approvals import consume, require_statement
from .archive import require_as_planned
from .full_verification import verify_history
from .intact import compare_heads
from .log import LedgerLog, object_missing
from .origin import DOCUMENT, Opening, stored_openings
from .records import open_log
from .rows import one_view
from .turn import WAIT_SECONDS, one_at_a_time

if TYPE_CHECKING:
    from ...ports.database import Connection

BROKEN_HISTORY = frozenset(
    {
        "log.forked",
        "log.database_behind",
        "log.rows_differ",
        "log.rows_gone",
        "log.column_gone",
    }
)
"""The findings after which a new origin may be opened."""


def open_origin(
    connection: Connection,
    store: ObjectStore,
    policy: Policy,
    statements_dir: str,
    clock: Clock,
    operator: str | None = None,
    *,
    wait_seconds: float = WAIT_SECONDS,
) -> str:
    """Open the next origin, which begins anew with the ledger as it is now; return its name.

    Origins that were opened before, and whose signers the policy in force does not know any more,
    are signed again instead.

    :param operator: the principal who asks for it; his own signature does not count
    :param wait_seconds: how long to wait for a snapshot
    :raises ApgmsError: ``log.nothing_to_restore`` where nothing speaks against the log in force,
        ``approval.waiting`` where the restore statement is not there yet, ``log.busy``,
        ``log.object_missing``
    """
    with one_at_a_time(connection, policy, clock, wait_seconds):
        openings = _to_sign_again(store, policy) or [_next(connection, store, policy)]
        for opening in openings:
            now = clock.now()
            signed = require_statement(
                connection, policy, statements_dir, "restore", opening.subject, now, operator
            )
            with connection.transaction():
                consume(connection, signed, None)
                opening.put(signed)
                _require_open(store, policy, opening)
    return openings[-1].origin


def _to_sign_again(store: ObjectStore, policy: Policy) -> list[Opening]:
    return [one for one in stored_openings(store, policy) if one.review(policy).missing]


def _require_open(store: ObjectStore, policy: Policy, opening: Opening) -> None:
    """Require of a store that what went into it is in it, before a statement is used up."""
    stored = [one for one in stored_openings(store, policy) if one.origin == opening.origin]
    if not stored or stored[0].review(policy).missing:
        where = opening.left.at(opening.key(DOCUMENT))
        raise object_missing(where, "it was stored a moment ago, and is not listed")


def _next(connection: Connection, store: ObjectStore, policy: Policy) -> Opening:
    log = open_log(connection, store, policy)
    _require_broken(connection, log, policy.stack)
    return Opening(store, log)


def _require_broken(connection: Connection, log: LedgerLog, stack: str) -> None:
    try:
        _recorded, head = compare_heads(connection, log)
        with one_view(connection):
            verify_history(connection, log, head, Progress(say_into(None)))
            if (plan := log.plan(head.tree_size)) is not None:
                require_as_planned(connection, log, head.tree_size, plan)
    except ApgmsError as error:
        if error.reason in BROKEN_HISTORY:
            return
        raise
    raise ApgmsError(
        "log.nothing_to_restore",
        "A new origin of the ledger log is not needed",
        where=f"log {log.origin}",
        why="the database and the log agree, so a restore statement has nothing to approve",
        mend=f"make ledger-snapshot STACK={stack}  # with ledger_snapshot_restore at false",
    )
