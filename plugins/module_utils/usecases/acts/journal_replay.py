# GNU General Public License v3.0+ (see COPYING)
"""What the object store knows and the database has forgotten, or never committed.

Every state change is put to the store before it is committed. Rows that only the store has are
taken over as they are; the releases they speak of become UNKNOWN, and the gateway is asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...domain.release.journal_chain import Row
from ...domain.release.release_state import State
from ...ports.clock import parse_utc
from ...ports.object_store import ObjectStore
from ..bundle.manifests import load_manifest
from ..release.intent import write_intent
from ..release.records import Release, find, update
from .journal import Journal
from .lease import Lease
from .steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection


def catch_up(
    connection: Connection, store: ObjectStore, journal: Journal, lease: Lease, steps: Steps
) -> list[Row]:
    """Take over the rows that the store is ahead; return them.

    Releases become UNKNOWN, and a rollback's closure of the window is put back. Rows of other acts
    change nothing: where their effect is missing, their own checks say so.

    :raises ApgmsError: the journal's reasons, ``lease.lost``, ``release.claimed``, ``manifest.*``
    """
    ahead = journal.ahead()
    if not ahead:
        return []

    def commit() -> None:
        with connection.transaction():
            lease.guard()
            journal.adopt(ahead)
            for row in ahead:
                _replay(connection, store, row)
            journal.record("journal.replayed", {"from": ahead[0].seq, "to": ahead[-1].seq})

    steps.run("journal.replay", commit)
    return ahead


def _replay(connection: Connection, store: ObjectStore, row: Row) -> None:
    if row.event == "release.intent":
        _replay_intent(connection, store, row)
    elif row.event.startswith("release."):
        _replay_change(connection, row)
    elif row.event == "window.closed":
        _replay_closure(connection, row)


def _replay_intent(connection: Connection, store: ObjectStore, row: Row) -> None:
    manifest = load_manifest(store, str(row.manifest_sha256), row.stack)
    at = parse_utc(row.at)
    release = Release(
        manifest_sha256=manifest.checksum,
        submission_id=row.body["submission_id"],
        idempotency_key=row.body["idempotency_key"],
        state=State.UNKNOWN,
        why=_WHY,
        endpoint=row.body["endpoint"],
        body_sha256=row.body["body_sha256"],
        operator=row.body["operator"],
        intent_at=at,
        attempts=0,
        first_sent_at=None,
        last_sent_at=None,
        job_id=None,
        receipt_sha256=None,
        changed_at=at,
        journal_seq=row.seq,
    )
    write_intent(connection, store, manifest, release)
    for used in row.body["statements"]:
        connection.execute(
            "INSERT INTO apgms_release.used_statement"
            " (nonce, kind, signer, sha256, manifest_sha256) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [used["nonce"], used["kind"], used["signer"], used["sha256"], manifest.checksum],
        )


def _replay_change(connection: Connection, row: Row) -> None:
    release = find(connection, str(row.manifest_sha256))
    if release is None or release.state.terminal:
        return
    at = parse_utc(row.at)
    sent = row.event == "release.sending"
    changed = replace(
        release,
        state=State.UNKNOWN,
        why=_WHY,
        attempts=release.attempts + sent,
        first_sent_at=release.first_sent_at or (at if sent else None),
        last_sent_at=at if sent else release.last_sent_at,
        job_id=row.body.get("job_id") or release.job_id,
        changed_at=at,
        journal_seq=row.seq,
    )
    update(connection, changed)


def _replay_closure(connection: Connection, row: Row) -> None:
    connection.execute(
        "INSERT INTO apgms_release.window_closure"
        " (incident_id, stack, reason, source_revision, closed_at) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        [row.body["incident_id"], row.stack, row.body["reason"], row.body["source_revision"],
         row.at],
    )  # fmt: skip


_WHY = "the object store knew a change of it that the database did not"
