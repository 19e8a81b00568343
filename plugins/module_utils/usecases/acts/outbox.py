# GNU General Public License v3.0+ (see COPYING)
"""The outbox: a notice is queued in the transaction of what it tells, and delivered afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from ...domain.formats.canonical import canonical
from ...ports.database import rehearsal
from ...ports.schema.migrate import migrate
from ...ports.webhook import Webhook
from .steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection

SCHEMA = "apgms.release/notice/1"

Webhooks = Mapping[str, Optional[Webhook]]  # noqa: UP045 - ansible-test reads it as older Python
"""Topic to address; None: its notices stay queued."""


class Delivery(NamedTuple):
    """Ids of notices: delivered now, waiting since their topic has no address, and failed (why)."""

    queued: bool
    """Whether a notice was queued by this run."""
    delivered: list[str]
    waiting: list[str]
    failed: dict[str, str]


def notify(
    connection: Connection,
    webhooks: Webhooks,
    manifest_sha256: str | None,
    steps: Steps | None = None,
) -> tuple[list[str], Delivery]:
    """Queue the notice of a release, if one is named, and deliver all that is queued.

    :return: the ids that were queued before, and what was delivered
    """
    steps = steps or Steps()
    migrate(connection)
    before = [notice_id for notice_id, _topic in pending(connection)]
    queued = manifest_sha256 is not None and queue_release(connection, manifest_sha256, steps)
    return before, deliver(connection, webhooks, steps, queued=queued)


def predict(
    connection: Connection, webhooks: Webhooks, manifest_sha256: str | None
) -> tuple[list[str], Delivery]:
    """Return what :func:`notify` would do if every webhook answered; send and write nothing."""
    sent: Webhooks = {topic: hook and _Silent(hook.url) for topic, hook in webhooks.items()}
    with rehearsal(connection):
        return notify(connection, sent, manifest_sha256)


class _Silent(Webhook):
    """A webhook that takes every notice and sends none."""

    def post(self, notice_id: str, document: bytes) -> str | None:
        return None


def queue(connection: Connection, notice_id: str, topic: str, body: dict[str, Any]) -> bool:
    """Queue a notice inside the caller's open transaction; False where it was queued before.

    :param notice_id: names what is told, such as ``release/<manifest checksum>``
    :param topic: ``release``, ``rollback`` or ``incident``
    :param body: has a canonical form; never secrets
    """
    document = canonical({"schema": SCHEMA, "notice_id": notice_id, "topic": topic, **body})
    queued = connection.execute(
        "INSERT INTO apgms_release.outbox (notice_id, topic, document) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING RETURNING notice_id",
        [notice_id, topic, document],
    ).fetchone()
    return queued is not None


def queue_release(connection: Connection, manifest_sha256: str, steps: Steps) -> bool:
    """Queue the notice that a release was acknowledged; False where it was not, or was queued.

    :param manifest_sha256: the manifest checksum
    """
    found = connection.execute(_RELEASE, [manifest_sha256]).fetchone()
    if found is None:
        return False
    names = ("state", "submission_id", "receipt_sha256", "accepted", "accepted_cents")
    body = {"manifest_sha256": manifest_sha256, **dict(zip(names, found, strict=True))}

    def commit() -> bool:
        with connection.transaction():
            return queue(connection, f"release/{manifest_sha256}", "release", body)

    return steps.run("notify.queue", commit)


def pending(connection: Connection) -> list[tuple[str, str]]:
    """Return id and topic of each notice that is not delivered, oldest first."""
    return [
        (str(notice_id), str(topic))
        for notice_id, topic in connection.execute(
            "SELECT notice_id, topic FROM apgms_release.outbox WHERE delivered_at IS NULL"
            " ORDER BY queued_at, notice_id"
        )
    ]


def deliver(
    connection: Connection, webhooks: Webhooks, steps: Steps, *, queued: bool = False
) -> Delivery:
    """Send every pending notice to the webhook of its topic, each at least once."""
    delivery = Delivery(queued, [], [], {})
    for notice_id, topic in pending(connection):
        webhook = webhooks.get(topic)
        if webhook is None:
            delivery.waiting.append(notice_id)
            continue
        error = _deliver_one(connection, notice_id, webhook, steps)
        if error is None:
            delivery.delivered.append(notice_id)
        else:
            delivery.failed[notice_id] = error
    return delivery


def _deliver_one(
    connection: Connection, notice_id: str, webhook: Webhook, steps: Steps
) -> str | None:
    found = connection.execute(
        "SELECT document FROM apgms_release.outbox WHERE notice_id = %s", [notice_id]
    ).fetchone()
    document = bytes(found[0]) if found else b""
    error: str | None = steps.run("notify.send", lambda: webhook.post(notice_id, document))
    steps.run("notify.delivered", lambda: _note(connection, notice_id, error))
    return error


def _note(connection: Connection, notice_id: str, error: str | None) -> None:
    connection.execute(
        "UPDATE apgms_release.outbox SET attempts = attempts + 1, last_error = %(error)s,"
        " delivered_at = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() END"
        " WHERE notice_id = %(id)s AND delivered_at IS NULL",
        {"id": notice_id, "error": error},
    )


_RELEASE = """
SELECT r.state, r.submission_id, r.receipt_sha256,
       count(c.rpt_id), coalesce(sum(c.amount_cents), 0)::text
FROM apgms_release.release r
LEFT JOIN apgms_release.claim c
    ON c.manifest_sha256 = r.manifest_sha256 AND c.outcome = 'accepted'
WHERE r.manifest_sha256 = %s AND r.state IN ('ACKNOWLEDGED', 'PARTIAL')
GROUP BY r.manifest_sha256
"""
