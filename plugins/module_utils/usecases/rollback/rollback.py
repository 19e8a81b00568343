# GNU General Public License v3.0+ (see COPYING)
"""Roll a stack back to a release: one plan, one transaction, proven.

``docs/rollback.md`` says what goes back, what does not, and what follows from a crash at each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...domain.release.rollback_plan import Plan
from ...errors import ApgmsError
from ...libraries import psycopg
from ..acts.journal_replay import catch_up
from ..acts.lease import Lease, hold
from ..ledger.log import LogHead
from ..ledger.records import open_log
from ..ledger.restore import find_damage
from ..ledger.restore import result as damage_result
from ..ledger.snapshot import take_snapshot
from ..release.records import require_none_open
from .ledger import (
    append_mirrors,
    lock_tables,
    next_free_id,
    require_target_balances,
)
from .order import Order, Ports
from .planning import Planned, make_plan
from .record import (
    Applied,
    find_applied,
    prove,
    publish_basis,
    record,
    require_signatures,
    unproven,
)
from .states import require_restored, restore_states

if TYPE_CHECKING:
    from ...ports.database import Connection

DAMAGE = frozenset({"log.rows_differ", "log.database_behind"})
"""What says that rows which the log admitted are not in the ledger as they were."""


class RolledBack(NamedTuple):
    """What a rollback did, or would do.

    ``plan`` is None where an earlier run has carried out the plan that was asked for; ``applied``
    is None where nothing was committed.
    """

    plan: Plan | None
    applied: Applied | None
    changed: bool


def rollback(order: Order, ports: Ports) -> RolledBack:
    """Carry out the plan that ``order`` names, or finish what an earlier run committed of it.

    :raises ApgmsError: ``rollback.*``, ``release.other_open``, ``lease.*``, ``journal.*``,
        ``ledger.*``, ``log.*``, ``approval.*``, ``statement.*``
    """
    if order.plan_sha256 is None:
        raise _no_plan(order)
    with hold(ports.connection, order.stack, order.holder, "rollback", steps=ports.steps) as lease:
        catch_up(ports.connection, ports.store, ports.journal, lease, ports.steps)
        finished = _prove_all(ports, lease)
        known = _known(order, ports.connection)
        if known:
            return RolledBack(None, known, changed=bool(finished))
        head = _admit(ports)
        plan = ports.steps.run("rollback.apply", lambda: _apply(order, ports, lease, head))
        done = _prove_all(ports, lease)
    return RolledBack(plan, next(iter([*done, *finished]), None), changed=bool(done or finished))


def predict(order: Order, ports: Ports) -> RolledBack:
    """Return what :func:`rollback` would do, tried in the caller's rehearsal on an overlay store.

    :raises ApgmsError: as :func:`rollback`, except for what is about signatures and the lock
    """
    connection = ports.connection
    open_ones = unproven(connection)
    known = _known(order, connection)
    if known:
        return RolledBack(None, known, changed=known in open_ones)
    head = _admit(ports)
    planned = _plan(order, ports, head)
    if not planned.plan.empty:
        if order.plan_sha256:
            _require_current(order, planned.plan)
        _carry_out(ports, planned, first_id=next_free_id(connection))
    return RolledBack(planned.plan, None, changed=bool(open_ones) or not planned.plan.empty)


def _known(order: Order, connection: Connection) -> Applied | None:
    """Return the rollback that carried out the plan that ``order`` names, if one did."""
    known = find_applied(connection, order.plan_sha256) if order.plan_sha256 else None
    if known and not known.target_sha256.startswith(order.target):
        raise _stale(f"the plan asked for was carried out, and went to {known.target_sha256}")
    return known


def _prove_all(ports: Ports, lease: Lease) -> list[Applied]:
    return [prove(ports, lease, applied) for applied in unproven(ports.connection)]


def _admit(ports: Ports) -> LogHead:
    """Admit every row of the ledger to the log, and verify every row against its leaf.

    :raises ApgmsError: ``rollback.damaged_ledger``, ``log.*``
    """
    try:
        return take_snapshot(
            ports.connection,
            ports.store,
            ports.log_signer,
            ports.policy,
            ports.clock,
            verify="full",
        ).head
    except ApgmsError as error:
        if error.reason in DAMAGE:
            raise _damaged(ports) from error
        raise


def _apply(order: Order, ports: Ports, lease: Lease, head: LogHead) -> Plan:
    with ports.connection.transaction():
        lease.guard()
        lock_tables(ports.connection)
        planned = _plan(order, ports, head)
        plan = planned.plan
        if plan.empty:
            return plan
        _require_current(order, plan)
        signed = require_signatures(order, ports, plan)
        publish_basis(ports, plan, signed)
        _carry_out(ports, planned)
        record(order, ports, planned, signed)
    return plan


def _plan(order: Order, ports: Ports, head: LogHead) -> Planned:
    require_none_open(ports.connection)
    _require_all_admitted(ports.connection, head)
    return make_plan(ports.connection, ports.store, ports.policy, order.target, head)


def _carry_out(ports: Ports, planned: Planned, first_id: int | None = None) -> None:
    """Change the tables as the plan says, and prove rows, states and balances.

    What the deployment checks only at the commit is checked here, so that a prediction meets it.
    """
    connection, plan = ports.connection, planned.plan
    try:
        append_mirrors(connection, net=plan.net, first_id=first_id)
        restore_states(connection, plan.states)
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except (psycopg.IntegrityError, psycopg.errors.RaiseException) as error:
        raise _unreachable(error) from None
    require_restored(connection, ports.store, planned.target, planned.held)
    found = require_target_balances(connection)
    if found != plan.balances_sha256:
        raise _unproven(found, plan.balances_sha256)


def _require_all_admitted(connection: Connection, head: LogHead) -> None:
    row = connection.execute("SELECT count(*) FROM owa_ledger").fetchone()
    rows = row[0] if row else 0
    if rows != head.tree_size:
        raise _stale(f"the log has {head.tree_size} ledger rows, the ledger has {rows}")


def _require_current(order: Order, plan: Plan) -> None:
    if order.plan_sha256 != plan.digest:
        raise _stale(f"the plan asked for is {order.plan_sha256}, the current one {plan.digest}")


def _no_plan(order: Order) -> ApgmsError:
    return ApgmsError(
        "rollback.no_plan",
        "A rollback carries out a plan that was shown; none is named",
        where="plan_sha256",
        why="what is carried out must be what --check showed",
        mend=f"make rollback STACK={order.stack} TARGET={order.target}, which plans first",
    )


def _stale(why: str) -> ApgmsError:
    return ApgmsError(
        "rollback.stale_plan",
        "The ledger, periods, tokens or releases have changed since the plan was made",
        where="plan_sha256",
        why=why,
        mend="run the same command again without a plan: it plans anew and shows what is different",
    )


def _unreachable(error: psycopg.Error) -> ApgmsError:
    diagnosis = error.diag
    rule = diagnosis.constraint_name or diagnosis.column_name
    return ApgmsError(
        "rollback.unreachable",
        "The target cannot be reached in this deployment; nothing was changed",
        where=f"{diagnosis.table_name}, {rule}" if rule else str(diagnosis.context),
        why=f"{diagnosis.message_primary}: {diagnosis.message_detail or 'no detail'}",
        mend="choose a later target, which needs no such row, or correct the ledger with a"
        " corrective release; the rule is the deployment's and is not got around",
    )


def _damaged(ports: Ports) -> ApgmsError:
    log = open_log(ports.connection, ports.store, ports.policy)
    damage = find_damage(ports.connection, log)
    return ApgmsError(
        "rollback.damaged_ledger",
        "The ledger is damaged and cannot be the basis of a rollback; nothing was changed",
        where=f"owa_ledger, rows {damage.words}",
        why=f"they are not in the ledger as the log {damage.origin} archived them",
        mend="put missing rows back from the archived segments under a signed restore statement:"
        f" STACK={ports.policy.stack} ansible-playbook -i inventories/{ports.policy.stack}"
        " playbooks/restore.yml"
        " (docs/rollback.md, Damaged ledger); then run the same command again",
        **damage_result(damage),
    )


def _unproven(found: str, expected: str) -> ApgmsError:
    return ApgmsError(
        "rollback.unproven",
        "The balances would not be the target's; nothing was changed",
        where="owa_ledger",
        why=f"their digest would be {found}, the target's is {expected}",
        mend="scripts/check_ledger.sh prod names the rows that do not follow the chain rule",
    )
