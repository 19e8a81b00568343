# GNU General Public License v3.0+ (see COPYING)
"""Which rows a snapshot admits: how far log and ledger go, the plan, and what reads its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ...domain.ledger.extent import IdRange, Scan, expand, extents, ranges_of, scans
from ...ports.clock import Clock
from .archive import require_as_planned, require_never_planned
from .chain_rule import Scope
from .log import LedgerLog, LogHead, Plan
from .records import frontier, late_ids, require_ascending, require_never_admitted
from .rows import (
    Writer,
    extents_between,
    newest_id,
    require_values,
    sees_one_state,
    wait_for_writers,
)
from .table import ledger_columns

if TYPE_CHECKING:
    from ...ports.database import Connection


class Seen(NamedTuple):
    """How far log and ledger go when a snapshot begins: a plan that was left, or the newest id."""

    plan: Plan | None
    after: int | None
    newest: int | None
    unfinished: list[Writer]

    @property
    def new_rows(self) -> int:
        """About how many rows there are to admit: as many as there are ids."""
        if self.plan is not None:
            return self.plan.size
        return 0 if self.newest is None else self.newest - (self.after or 0)


@dataclass(frozen=True)
class Admission:
    """What one snapshot admits after ``head``, and what reads it in its view."""

    head: LogHead
    after: int | None
    plan: Plan
    scans: list[Scan]
    unfinished: list[Writer]

    @property
    def late(self) -> tuple[int, ...]:
        """The ids that showed up below those admitted before."""
        return tuple(expand(ranges_of(self.plan.late)))

    @property
    def scope(self) -> Scope:
        """The rows to check where only new ones are."""
        upto = self.plan.fresh[-1].last if self.plan.fresh else self.after
        return Scope(self.after, 0 if upto is None else upto, self.late)

    def rows_in(self, scope: Scope) -> int:
        """How many rows a scope has: the new ones, or all."""
        return self.plan.size + (self.head.tree_size if scope.after is None else 0)


def look(
    connection: Connection, log: LedgerLog, head: LogHead, clock: Clock, wait_seconds: float
) -> Seen:
    """Look how far log and ledger go, and wait for those that are writing the ledger."""
    after, plan = frontier(connection, log.origin), log.plan(head.tree_size)
    if plan is not None:
        return Seen(plan, after, None, [])
    newest = newest_id(connection)
    return Seen(None, after, newest, wait_for_writers(connection, clock, wait_seconds))


def plan_admission(connection: Connection, log: LedgerLog, head: LogHead, seen: Seen) -> Admission:
    """Decide which rows the snapshot admits, and how they are read.

    :raises ApgmsError: ``log.rows_gone``, ``log.rows_differ``, ``log.null_value``, and others of what
        a plan that was left must be
    """
    plan, after, newest, unfinished = seen
    without: list[IdRange] = []
    if plan is not None:
        require_ascending(log, head.tree_size, plan, after)
        without = require_as_planned(connection, log, head.tree_size, plan)
        require_never_admitted(connection, log, head.tree_size, plan)
    else:
        found = late_ids(connection, log.origin) if head.tree_size else []
        require_never_planned(log, found)
        fresh = [] if newest is None else extents_between(connection, after, newest)
        plan = Plan(tuple(ledger_columns(connection)), tuple(extents([found])), tuple(fresh))
    if sees_one_state(connection):
        selected = plan.scans(without)
    else:
        selected = list(scans(ranges_of(plan.extents)))
    require_values(connection, selected)
    return Admission(head, after, plan, selected, unfinished)
