# GNU General Public License v3.0+ (see COPYING)
"""The incident of a rollback: one document for people, in the database and the object store."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...domain.formats.canonical import canonical, parse_canonical
from ...domain.release.rollback_plan import Plan
from ...ports.clock import iso_utc
from ...ports.object_store import ObjectStore
from ..acts.outbox import queue

if TYPE_CHECKING:
    from ...ports.database import Connection

SCHEMA = "apgms.release/incident/1"
SHOWN = 1000
CORRECTIVE = (
    "The window is shut. Correct the cause, take the corrective release through a dry run, and have"
    " it verified: that reopens the window. Amend each obligation at the authority."
)


def incident_id(plan_sha256: str) -> str:
    """Return the id of a rollback's incident."""
    return f"rollback-{plan_sha256[:16]}"


def incident_document(
    plan: Plan, plan_sha256: str, operator: str, reason: str, at: datetime
) -> dict[str, Any]:
    """Return the incident: what was rolled back, why, and what is owed now.

    Obligations are listed up to :data:`SHOWN`; the plan names all of them.
    """
    return {
        "schema": SCHEMA,
        "incident_id": incident_id(plan_sha256),
        "stack": plan.stack,
        "opened_at": iso_utc(at),
        "operator": operator,
        "reason": reason,
        "target_sha256": plan.target_sha256,
        "plan_sha256": plan_sha256,
        "plan_object": plan_key(plan_sha256),
        "undone_releases": list(plan.undone),
        "totals": plan.totals(),
        "obligations": [claim.obligation() for claim in plan.obligations[:SHOWN]],
        "window": "shut",
        "what_to_do": CORRECTIVE,
    }


def open_incident(connection: Connection, document: dict[str, Any], at: datetime) -> None:
    """Record the incident and queue its notices, inside the caller's open transaction."""
    connection.execute(
        "INSERT INTO apgms_release.incident (incident_id, opened_at, document) VALUES (%s, %s, %s)",
        [document["incident_id"], at, canonical(document)],
    )
    for topic in ("rollback", "incident"):
        queue(connection, f"{topic}/{document['incident_id']}", topic, {"incident": document})


def publish(connection: Connection, store: ObjectStore, incident: str) -> dict[str, Any]:
    """Put the incident's document to the object store; return it."""
    row = connection.execute(
        "SELECT document FROM apgms_release.incident WHERE incident_id = %s", [incident]
    ).fetchone()
    document = bytes(row[0]) if row else b""
    store.put_new(f"incidents/{incident}.json", document)
    parsed: dict[str, Any] = parse_canonical(document)
    return parsed


def plan_key(plan_sha256: str) -> str:
    """Return the object key of a rollback's plan."""
    return f"rollbacks/{plan_sha256}/plan.jsonl"
