# GNU General Public License v3.0+ (see COPYING)
"""What a rollback leaves on record, in its transaction and with its proof."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...domain.approval.statement import Signed
from ...domain.ledger.tree import subtree_hash
from ...domain.release.rollback_plan import Plan
from ...errors import ApgmsError
from ..acts import audit_log
from ..acts.lease import Lease
from ..approvals.approvals import consume, require_statement
from ..approvals.sign import make_intent
from ..ledger.log import LogHead
from ..ledger.origin import log_in_force
from ..ledger.snapshot import take_snapshot
from ..stack import windows
from .incident import incident_document, incident_id, open_incident, plan_key, publish
from .ledger import record_standing
from .order import Order, Ports
from .planning import Planned

if TYPE_CHECKING:
    from ...ports.database import Connection


class Applied(NamedTuple):
    """A committed rollback. The head after it is None until it is proven."""

    plan_sha256: str
    incident_id: str
    target_sha256: str
    balances_sha256: str
    tree_size_before: int
    root_before: str
    entries: int
    tree_size_after: int | None
    root_after: str | None


def find_applied(connection: Connection, plan_sha256: str) -> Applied | None:
    """Return the rollback that carried out a plan."""
    found = connection.execute(f"{_SELECT} WHERE plan_sha256 = %s", [plan_sha256]).fetchone()
    return Applied(*found) if found else None


def unproven(connection: Connection) -> list[Applied]:
    """Return the rollbacks that were committed and not proven, since their run ended early."""
    found = connection.execute(f"{_SELECT} WHERE proven_at IS NULL ORDER BY applied_at").fetchall()
    return [Applied(*row) for row in found]


def require_signatures(order: Order, ports: Ports, plan: Plan) -> list[Signed]:
    """Return the operator's signed intent, and the further statements that the policy asks for.

    :raises ApgmsError: ``rollback.no_key``, ``approval.waiting``, ``statement.*``,
        ``ssh.cannot_sign``
    """
    if order.operator_key is None:
        raise _no_key(order)
    now = ports.clock.now()
    subject = {"manifest_sha256": plan.target_sha256, "plan_sha256": plan.digest}
    seconds = require_statement(
        ports.connection,
        ports.policy,
        order.statements_dir,
        "rollback",
        subject,
        now,
        order.operator,
    )
    intent = make_intent(
        ports.policy,
        act="rollback",
        operator=order.operator,
        key=order.operator_key,
        now=now,
        nonce=ports.nonce(),
        manifest_sha256=plan.target_sha256,
        plan_sha256=plan.digest,
    )
    return [intent, *seconds]


def publish_basis(ports: Ports, plan: Plan, signed: Sequence[Signed]) -> None:
    """Put the plan and the statements that allow it to the object store, before it is done."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.jsonl"
        with file.open("wb") as out:
            out.writelines(plan.lines())
        ports.steps.run(
            "rollback.put_plan", lambda: ports.store.put_new(plan_key(plan.digest), file)
        )
    for one in signed:
        key = f"rollbacks/{plan.digest}/statements/{one.sha256}.json"
        for name, data in ((key, one.data), (f"{key}.sig", one.signature)):
            ports.steps.run("rollback.put_statement", partial(ports.store.put_new, name, data))


def record(order: Order, ports: Ports, planned: Planned, signed: Sequence[Signed]) -> None:
    """Record a rollback inside its transaction: its row, what is undone and owed, the incident, the
    shut window, ``audit_log`` and, last, the journal.
    """
    connection, plan, digest = ports.connection, planned.plan, planned.plan.digest
    reason = order.reason or f"rolled back to {plan.target_sha256[:12]} by {order.operator}"
    now = ports.clock.now()
    consume(connection, signed, plan.target_sha256)
    connection.execute(
        _INSERT,
        [digest, incident_id(digest), plan.target_sha256, plan.target_tree_size, plan.tree_size,
         plan.root, plan.balances_sha256, order.operator, reason, now, plan.totals()["entries"]],
    )  # fmt: skip
    record_standing(connection, digest)
    connection.execute(_UNDO, {"plan": digest, "manifests": list(plan.undone)})
    connection.execute(
        _OWE,
        {
            "plan": digest,
            "manifests": [claim.manifest_sha256 for claim in plan.obligations],
            "rpts": [claim.rpt_id for claim in plan.obligations],
        },
    )
    open_incident(connection, incident_document(plan, digest, order.operator, reason, now), now)
    said = {
        "plan_sha256": digest,
        "target_sha256": plan.target_sha256,
        "incident_id": incident_id(digest),
        "operator": order.operator,
        "tree_size": plan.tree_size,
        "root": plan.root,
        "balances_sha256": plan.balances_sha256,
        "totals": plan.totals(),
    }
    audit_log.append(connection, order.operator, "rollback", said)
    windows.close(
        connection,
        ports.journal,
        order.stack,
        reason,
        incident_id(digest),
        planned.undone_revision,
    )
    ports.journal.record("rollback.applied", said, plan.target_sha256)


def prove(ports: Ports, lease: Lease, applied: Applied) -> Applied:
    """Admit the mirrored rows to the log, prove the old tree a prefix, publish the incident.

    The log may hold more by now: the bank's rows go on while a killed run waits to be finished.

    :raises ApgmsError: ``log.forked``, ``ledger.*``, ``log.*``
    """
    before = LogHead("", applied.tree_size_before, bytes.fromhex(applied.root_before), b"")
    snapshot = take_snapshot(
        ports.connection, ports.store, ports.log_signer, ports.policy, ports.clock
    )
    log = log_in_force(ports.store, ports.policy)
    log.require_prefix(before, snapshot.head)
    size = applied.tree_size_before + applied.entries
    root = subtree_hash(0, size, snapshot.tree_size, log.read_tile)
    ports.steps.run(
        "rollback.put_incident",
        lambda: publish(ports.connection, ports.store, applied.incident_id),
    )
    proven = applied._replace(tree_size_after=size, root_after=root.hex())

    def commit() -> None:
        with ports.connection.transaction():
            lease.guard()
            ports.connection.execute(
                "UPDATE apgms_release.rollback SET tree_size_after = %s, root_after = %s,"
                " proven_at = clock_timestamp() WHERE plan_sha256 = %s",
                [proven.tree_size_after, proven.root_after, proven.plan_sha256],
            )
            said = {
                "plan_sha256": proven.plan_sha256,
                "tree_size": proven.tree_size_after,
                "root": proven.root_after,
            }
            ports.journal.record("rollback.proven", said, proven.target_sha256)

    ports.steps.run("rollback.proven", commit)
    return proven


def _no_key(order: Order) -> ApgmsError:
    return ApgmsError(
        "rollback.no_key",
        "A rollback is signed by its operator; no key is named",
        where="operator_key",
        why=f"the intent of {order.operator} cannot be signed without it",
        mend="set apgms_operator_key to the operator's SSH key",
    )


_COLUMNS = ", ".join(Applied._fields)
_SELECT = f"SELECT {_COLUMNS} FROM apgms_release.rollback"  # noqa: S608
_INSERT = """
INSERT INTO apgms_release.rollback
    (plan_sha256, incident_id, target_sha256, target_tree_size, tree_size_before, root_before,
     balances_sha256, operator, reason, applied_at, entries)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_UNDO = """
INSERT INTO apgms_release.undone (manifest_sha256, plan_sha256)
SELECT unnest(%(manifests)s::text[]), %(plan)s
"""
_OWE = """
INSERT INTO apgms_release.obligation (manifest_sha256, rpt_id, plan_sha256)
SELECT manifest_sha256, rpt_id, %(plan)s
FROM unnest(%(manifests)s::text[], %(rpts)s::bigint[]) AS owed (manifest_sha256, rpt_id)
"""
