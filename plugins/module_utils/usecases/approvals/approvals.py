# GNU General Public License v3.0+ (see COPYING)
"""Who has approved what: statements held against the policy, the subject and the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ...domain.approval.flags import require_lawful
from ...domain.approval.policy import Policy, missing_from_quorum
from ...domain.approval.ssh_signature import Refusal
from ...domain.approval.statement import (
    SINGLE_USE,
    Signed,
    Subject,
    already_used,
    refused,
    require_begun,
    require_current,
    require_permission,
    require_subject,
    stack_of,
)
from ...domain.release.manifest import Manifest
from ...errors import ApgmsError
from .review import Review, approvers_needed, waiting_for, waiting_for_release
from .signatures import require_signed
from .statements import read_statements

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class _Question:
    """What is asked of the statements."""

    policy: Policy
    kind: str
    subject: Subject
    now: datetime
    operator: str | None
    used: frozenset[str]
    signatures: int = 0

    def require_about(self, signed: Signed) -> None:
        """Check that the statement is about what is asked."""
        stack = stack_of(self.kind, self.policy.stack)
        require_subject(signed.statement, stack, self.subject, signed.where)

    def require_valid(self, signed: Signed) -> None:
        """Check everything but the subject: signer, time, use, and last the signature."""
        statement, where = signed.statement, signed.where
        require_permission(statement, self.policy, where)
        require_current(statement, self.policy, self.now, where)
        self._require_other_person(signed)
        if statement.nonce in self.used:
            raise already_used(signed)
        require_signed(self.policy, signed, self.now)

    def _require_other_person(self, signed: Signed) -> None:
        if self.operator is None:
            return
        signers = self.policy.signers
        if signers[signed.statement.signer].person_key == signers[self.operator].person_key:
            why = f"{signed.statement.signer} and the operator {self.operator} are one person"
            raise refused("own_approval", signed.where, why)


def require_approvals(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    manifest: Manifest,
    operator: str,
    now: datetime,
    *,
    inventory: str | None = None,
) -> list[Signed]:
    """Return the prototype and release approvals that let ``manifest`` be sent.

    :param operator: the principal who releases; none of the approvers
    :param now: the database's time
    :param inventory: for the approver's command in the message
    :raises ApgmsError: ``approval.waiting`` with ``refusals``; ``approval.not_a_release``,
        ``flags.forbidden``, ``approval.unknown_operator``
    """
    reviews = review_approvals(connection, policy, statements_dir, manifest, operator, now)
    if any(review.missing for review in reviews):
        raise waiting_for_release(policy, statements_dir, manifest, reviews, inventory)
    return [signed for review in reviews for signed in review.counted]


def review_approvals(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    manifest: Manifest,
    operator: str,
    now: datetime,
) -> tuple[Review, Review]:
    """Return what there is of prototype and of release approvals for ``manifest``.

    :raises ApgmsError: ``approval.not_a_release``, ``flags.forbidden``,
        ``approval.unknown_operator``
    """
    _require_release(manifest, policy)
    _require_operator(policy, operator)
    found, unreadable = read_statements(statements_dir)
    used = _used(connection, found)
    run = {
        "source_revision": manifest.source_revision,
        "rates_version": manifest.rates_version,
        "collection_version": manifest.collection_version,
    }
    prototype = _review(found, _Question(policy, "prototype", run, now, operator, used))
    subject = {"manifest_sha256": manifest.checksum, **run}
    release = _review(
        found,
        _Question(
            policy, "release", subject, now, operator, used, approvers_needed(policy, manifest)
        ),
    )
    release.refusals += unreadable
    return prototype, release


def require_statement(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    kind: str,
    subject: Subject,
    now: datetime,
    operator: str | None = None,
) -> list[Signed]:
    """Return the statements of ``kind`` about ``subject`` that make its quorum.

    Nothing is consumed: the caller does that with :func:`consume`, in the effect's transaction.

    :param operator: the principal who asks for it; his own signature does not count
    :raises ApgmsError: ``approval.waiting`` with ``refusals``; ``approval.unknown_operator``
    """
    if operator is not None and operator not in policy.signers:
        raise _unknown_operator(f"the policy has no signer {operator!r}")
    found, unreadable = read_statements(statements_dir)
    used = _used(connection, found)
    review = _review(found, _Question(policy, kind, subject, now, operator, used))
    review.refusals += unreadable
    if review.missing:
        raise waiting_for(policy, statements_dir, review, subject)
    return review.counted


def consume(connection: Connection, signed: Iterable[Signed], manifest_sha256: str | None) -> None:
    """Use up the single-use statements, inside the transaction of what they allow.

    :raises ApgmsError: ``statement.used``
    """
    for one in signed:
        statement = one.statement
        if statement.kind not in SINGLE_USE:
            continue
        done = connection.execute(
            "INSERT INTO apgms_release.used_statement"
            " (nonce, kind, signer, sha256, manifest_sha256) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING RETURNING nonce",
            [statement.nonce, statement.kind, statement.signer, one.sha256, manifest_sha256],
        ).fetchone()
        if done is None:
            raise already_used(one)


def used_for(connection: Connection, manifest_sha256: str) -> list[dict[str, str]]:
    """Return the statements that were used for a manifest: kind, signer, sha256."""
    rows = connection.execute(
        "SELECT kind, signer, sha256 FROM apgms_release.used_statement"
        " WHERE manifest_sha256 = %s ORDER BY used_at, nonce",
        [manifest_sha256],
    ).fetchall()
    return [dict(zip(("kind", "signer", "sha256"), row, strict=True)) for row in rows]


def review_kept(
    policy: Policy, kind: str, subject: Subject, found: list[Signed], now: datetime
) -> Review:
    """Return which statements stand behind something that was done under them.

    They may have had their time and their use; the policy in force says whether their signers'
    keys still count.
    """
    review = Review(kind)

    def require_counting(signed: Signed) -> None:
        statement = signed.statement
        require_subject(statement, stack_of(kind, policy.stack), subject, signed.where)
        require_permission(statement, policy, signed.where)
        require_begun(statement, now, signed.where)
        require_signed(policy, signed, now)

    of_kind = [signed for signed in found if signed.statement.kind == kind]
    about = _passing(of_kind, require_counting, review.refusals)
    _count(review, about, policy)
    return review


def _review(found: list[Signed], question: _Question) -> Review:
    review = Review(question.kind)
    refusals = review.refusals
    of_kind = [signed for signed in found if signed.statement.kind == question.kind]
    if question.kind == "prototype":
        valid = _passing(of_kind, question.require_valid, refusals)
        about = _passing(valid, question.require_about, refusals)
        about = _passing(about, lambda signed: _require_newest(signed, valid), refusals)
    else:
        about = _passing(of_kind, question.require_about, refusals)
        about = _passing(about, question.require_valid, refusals)
    _count(review, about, question.policy, question.signatures)
    return review


def _count(review: Review, about: list[Signed], policy: Policy, signatures: int = 0) -> None:
    persons: dict[str, str] = {}
    review.counted = _passing(
        about, lambda signed: _require_new_person(signed, persons, policy), review.refusals
    )
    signers = [signed.statement.signer for signed in review.counted]
    review.missing = missing_from_quorum(policy, review.kind, signers, signatures)


def _passing(
    found: list[Signed], check: Callable[[Signed], None], refusals: list[Refusal]
) -> list[Signed]:
    passed = []
    for signed in found:
        try:
            check(signed)
        except Refusal as refusal:
            refusals.append(refusal)
        else:
            passed.append(signed)
    return passed


def _require_newest(signed: Signed, valid: list[Signed]) -> None:
    newest = max(valid, key=lambda other: other.statement.not_before)
    if (
        newest.statement.subject != signed.statement.subject
        and newest.statement.not_before > signed.statement.not_before
    ):
        run = newest.statement.subject["manifest_sha256"]
        raise refused("superseded", signed.where, f"{newest.where} approves a later run, {run}")


def _require_new_person(signed: Signed, persons: dict[str, str], policy: Policy) -> None:
    signer = policy.signers[signed.statement.signer]
    before = persons.setdefault(signer.person_key, signed.where)
    if before != signed.where:
        why = f"{signer.person} has signed already, in {before}; a person counts once"
        raise refused("same_person", signed.where, why)


def _used(connection: Connection, found: list[Signed]) -> frozenset[str]:
    rows = connection.execute(
        "SELECT nonce FROM apgms_release.used_statement WHERE nonce = ANY(%s)",
        [[signed.statement.nonce for signed in found]],
    )
    return frozenset(nonce for (nonce,) in rows)


def _require_release(manifest: Manifest, policy: Policy) -> None:
    if manifest.stack != policy.stack or manifest.purpose != "release":
        raise ApgmsError(
            "approval.not_a_release",
            "This manifest is none that could be sent",
            where=f"manifest {manifest.checksum}",
            why=f"it is a {manifest.purpose} of {manifest.stack}, not a release of {policy.stack}",
            mend=f"make verify-rpt STACK={policy.stack}  # with DRY_RUN=0 in its inventory",
        )
    where = f"manifest {manifest.checksum}"
    require_lawful(manifest.stack, manifest.purpose, manifest.flags, where=where)


def _require_operator(policy: Policy, operator: str) -> None:
    signer = policy.signers.get(operator)
    if signer is None or "intent" not in signer.kinds:
        raise _unknown_operator(f"the policy lets no signer {operator!r} sign intents")


def _unknown_operator(why: str) -> ApgmsError:
    return ApgmsError(
        "approval.unknown_operator",
        "The operator is none of this policy",
        where="apgms_operator",
        why=why,
        mend="set apgms_operator to an operator of the policy",
    )
