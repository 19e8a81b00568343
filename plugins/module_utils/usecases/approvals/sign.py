# GNU General Public License v3.0+ (see COPYING)
"""Sign a statement with the signer's own SSH key, as the policy lets him."""

from __future__ import annotations

from datetime import datetime, timedelta

from ...domain.approval.policy import Policy, namespace
from ...domain.approval.statement import (
    Signed,
    Statement,
    Subject,
    longest_minutes,
    parse_statement,
    require_permission,
    stack_of,
)
from ...ports import ssh
from ...ports.clock import MAX_SKEW_SECONDS
from .signatures import require_signed


def make_intent(
    policy: Policy,
    *,
    act: str,
    manifest_sha256: str,
    operator: str,
    key: str,
    now: datetime,
    nonce: str,
    plan_sha256: str | None = None,
) -> Signed:
    """Return the operator's signed intent.

    :param act: ``release`` or ``rollback``
    :param key: path of the operator's SSH key
    :param nonce: 32 hexadecimal digits, never used before
    :param plan_sha256: the digest of the rollback's plan
    :raises ApgmsError: as :func:`sign_statement`
    """
    subject = {"act": act, "manifest_sha256": manifest_sha256, "plan_sha256": plan_sha256}
    return sign_statement(
        policy, kind="intent", subject=subject, signer=operator, key=key, now=now, nonce=nonce
    )


def sign_statement(
    policy: Policy,
    *,
    kind: str,
    subject: Subject,
    signer: str,
    key: str,
    now: datetime,
    nonce: str,
    reason: str = "",
    minutes: int | None = None,
) -> Signed:
    """Return a statement, signed, and verified as whoever relies on it will verify it.

    It is valid from a minute ago: whoever relies on it may have a clock that is that much behind.

    :param key: path of an SSH private key, or of a public key whose private half is in the agent
    :param nonce: 32 hexadecimal digits, never used before
    :param minutes: how long it is valid; as long as the policy allows, if not given
    :raises ApgmsError: ``statement.malformed``, ``statement.unknown_signer``,
        ``statement.kind_not_allowed``, ``ssh.cannot_sign``, ``signature.*``
    """
    start = now.replace(microsecond=0) - timedelta(seconds=MAX_SKEW_SECONDS)
    statement = Statement(
        kind=kind,
        stack=stack_of(kind, policy.stack),
        signer=signer,
        not_before=start,
        expires_at=start + timedelta(minutes=minutes or longest_minutes(policy, kind)),
        nonce=nonce,
        reason=reason,
        subject=dict(subject),
    )
    data = statement.to_bytes()
    where = f"the {kind} statement of {signer}, signed with {key}"
    parse_statement(data, where)
    require_permission(statement, policy, where)
    signature = ssh.sign(key, namespace(kind, statement.stack), data)
    signed = Signed(statement, data, signature, where)
    require_signed(policy, signed, now)
    return signed
