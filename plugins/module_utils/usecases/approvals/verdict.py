# GNU General Public License v3.0+ (see COPYING)
"""Whether a release is approved: the verdict that the runbook's approval step prints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...domain.approval.statement import Signed
from ...ports.clock import iso_utc
from ...ports.object_store import ObjectStore
from ..bundle.manifests import load_manifest
from .approvals import review_approvals, used_for
from .policy import Pinned, pin_policy
from .review import listed, waiting_for_release

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Question:
    """What is asked: may this manifest be sent by this operator?"""

    stack: str
    policy: str
    statements: str
    manifest_sha256: str
    operator: str
    inventory: str | None
    """For the approver's command in the message."""


def verify_approvals(
    connection: Connection, store: ObjectStore, question: Question, now: datetime
) -> tuple[Pinned, dict[str, Any]]:
    """Return the policy in force and the approvals of a release, as data.

    A release that has used its approvals already stays approved: it only has to be finished.

    :raises ApgmsError: ``approval.waiting``, ``approval.*``, ``manifest.*``, ``policy.*``
    """
    pinned = pin_policy(connection, question.policy, question.stack)
    manifest = load_manifest(store, question.manifest_sha256, question.stack)
    used = [one for one in used_for(connection, manifest.checksum) if one["kind"] == "release"]
    if used:
        return pinned, {"approvals": used, "refusals": [], "used": True}
    reviews = review_approvals(
        connection, pinned.policy, question.statements, manifest, question.operator, now
    )
    if any(review.missing for review in reviews):
        raise waiting_for_release(
            pinned.policy, question.statements, manifest, reviews, question.inventory
        )
    return pinned, {
        "approvals": [_approval(signed) for review in reviews for signed in review.counted],
        "refusals": listed([refusal for review in reviews for refusal in review.refusals]),
        "used": False,
    }


def _approval(signed: Signed) -> dict[str, Any]:
    statement = signed.statement
    return {
        "kind": statement.kind,
        "signer": statement.signer,
        "sha256": signed.sha256,
        "manifest_sha256": statement.subject["manifest_sha256"],
        "expires_at": iso_utc(statement.expires_at),
    }
