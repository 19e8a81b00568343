# GNU General Public License v3.0+ (see COPYING)
"""What a review of statements found, and what to tell who waits for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ...domain.approval.policy import Policy
from ...domain.approval.ssh_signature import Refusal
from ...domain.approval.statement import Signed, Subject
from ...domain.release.manifest import Manifest
from ...errors import ApgmsError

SHOWN_REFUSALS = 10


@dataclass
class Review:
    """The statements of one kind: those that count, and why the others do not."""

    kind: str
    counted: list[Signed] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    missing: str | None = None
    """What the quorum lacks, in words."""


def approvers_needed(policy: Policy, manifest: Manifest) -> int:
    """Return how many persons the amount asks for, whatever the quorum says."""
    return 2 if manifest.amount_total_cents >= policy.dual_approval_cents else 1


def waiting_for_release(
    policy: Policy,
    statements_dir: str,
    manifest: Manifest,
    reviews: tuple[Review, ...],
    inventory: str | None,
) -> ApgmsError:
    """Return the error that stops an unapproved release, with the approver's command."""
    prototype, release = reviews
    lacks = [f"{review.kind} approval: {review.missing}" for review in reviews if review.missing]
    if release.missing and approvers_needed(policy, manifest) == 2:
        cents, limit = manifest.amount_total_cents, policy.dual_approval_cents
        lacks.append(
            f"${cents / 100:,.2f} is not below ${limit / 100:,.2f}, so two approvers are needed"
        )
    mends = []
    if prototype.missing:
        command = approve_command("proto", "CHECKSUM_OF_THE_PROTO_RUN", None)
        mends.append(f"{command}  # of this source revision and these rates")
    if release.missing:
        mends.append(approve_command(policy.stack, manifest.checksum, inventory))
    refusals = [*prototype.refusals, *release.refusals]
    return ApgmsError(
        "approval.waiting",
        f"Waiting for approval: release {manifest.checksum} is not sent",
        where=statements_dir,
        why="; ".join([*lacks, *_shown(refusals)]),
        mend="; ".join(mends) + "; then run the same command again",
        refusals=listed(refusals),
    )


def waiting_for(
    policy: Policy, statements_dir: str, review: Review, subject: Subject
) -> ApgmsError:
    """Return the error that stops what needs another kind of statement."""
    named = ", ".join(f"{name} {value}" for name, value in subject.items())
    asked = json.dumps({"approve_subject": dict(subject), "approve_reason": "WHY"})
    return ApgmsError(
        "approval.waiting",
        f"Waiting for approval: no signed {review.kind} about {named}",
        where=statements_dir,
        why="; ".join([str(review.missing), *_shown(review.refusals)]),
        mend=f"STACK={policy.stack} ansible-playbook -i inventories/{policy.stack}"
        f" playbooks/approve.yml -e approve_kind={review.kind} -e '{asked}'"
        f" {_WHO}; then run the same command again",
        refusals=listed(review.refusals),
    )


def approve_command(stack: str, checksum: str, inventory: str | None) -> str:
    """Return the command with which somebody approves a manifest."""
    return (
        f"STACK={stack} ansible-playbook -i {inventory or f'inventories/{stack}'}"
        f" playbooks/approve.yml -e approve_manifest={checksum} {_WHO}"
    )


_WHO = "-e approve_signer=PRINCIPAL -e approve_key=KEY"


def _shown(refusals: list[Refusal]) -> list[str]:
    """Return the refusals in words: those about this very subject first."""
    ordered = sorted(refusals, key=lambda refusal: refusal.reason == "statement.other_manifest")
    shown = [f"{refusal.where}: {refusal.why}" for refusal in ordered[:SHOWN_REFUSALS]]
    more = len(refusals) - len(shown)
    return [*shown, f"and {more} more that do not count"] if more else shown


def listed(refusals: list[Refusal]) -> list[dict[str, str]]:
    """Return the refusals as data: reason, where, why."""
    return [
        {"reason": refusal.reason, "where": refusal.where, "why": refusal.why}
        for refusal in refusals
    ]
