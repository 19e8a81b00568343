# GNU General Public License v3.0+ (see COPYING)
"""Whether a signature is a signer's own, by policy and by ``ssh-keygen``."""

from __future__ import annotations

from datetime import datetime

from ...domain.approval.policy import Policy, namespace
from ...domain.approval.ssh_signature import Expected, refused, require_claims
from ...domain.approval.statement import Signed
from ...ports import ssh


def require_signature(
    policy: Policy,
    *,
    principal: str,
    kind: str,
    stack: str,
    message: bytes,
    signature: bytes,
    now: datetime,
    where: str,
) -> None:
    """Check that ``signature`` is the principal's own over ``message``, made for this kind.

    :param where: the signature's file, for messages
    :raises ApgmsError: ``signature.*``; ``signature.edited`` where only the text does not match
    """
    expected = Expected(
        principal,
        namespace(kind, stack),
        now,
        policy.allowed_signers,
        policy.revoked_keys,
    )
    require_claims(signature, expected, where)
    fault = ssh.verify(message, signature, expected)
    if fault:
        raise refused("edited", where, f"the text is not what was signed: {fault}")


def require_signed(policy: Policy, signed: Signed, now: datetime) -> None:
    """Check that the signature of a statement is its signer's own.

    :raises ApgmsError: as :func:`require_signature`
    """
    statement = signed.statement
    require_signature(
        policy,
        principal=statement.signer,
        kind=statement.kind,
        stack=statement.stack,
        message=signed.data,
        signature=signed.signature,
        now=now,
        where=f"{signed.where}.sig",
    )
