# GNU General Public License v3.0+ (see COPYING)
"""The policy in force: signed, pinned at first use, succeeded only by its own quorum.

The first policy of a stack is trusted on first use: it must be signed by the quorum that it names
itself, and nothing else vouches for it. From then on the pin in ``apgms_release`` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy, missing_from_quorum, parse_policy
from ...domain.formats.canonical import canonical
from ...errors import ApgmsError
from ...ports.clock import DatabaseClock
from ...ports.files import mend_reading, read_regular
from ...ports.schema.migrate import migrate
from .signatures import require_signature

if TYPE_CHECKING:
    from ...ports.database import Connection

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Pinned:
    """The policy in force, and what was pinned before this call."""

    policy: Policy
    before: Policy | None
    signers: tuple[str, ...]
    """The principals whose signatures brought it into force."""
    first: bool
    """Whether it is the first policy of this stack, trusted on first use."""

    @property
    def summary(self) -> dict[str, Any]:
        """What is in force and why it is trusted."""
        return {
            **_named(self.policy),
            "signers": list(self.signers),
            "trust": "first use" if self.first else "succession",
        }

    @property
    def difference(self) -> tuple[Any, Any]:
        """The policy pinned before and after."""
        return (_named(self.before) if self.before else None), _named(self.policy)


def load_policy(connection: Connection, path: str, stack: str) -> Policy:
    """Return the policy at ``path`` where it is, or may now become, the one in force.

    A new policy is pinned, in a transaction of its own or in the caller's.

    :raises ApgmsError: as :func:`pin_policy`
    """
    return pin_policy(connection, path, stack).policy


def pin_policy(connection: Connection, path: str, stack: str) -> Pinned:
    """Pin the policy at ``path`` if it is the first or the successor; return what is in force.

    :raises ApgmsError: ``policy.unreadable``, ``policy.malformed``, ``policy.other_stack``,
        ``policy.edited``, ``policy.older``, ``policy.skipped_version``, ``policy.swapped``,
        ``policy.unsigned``, ``signers.*``, ``signature.*``
    """
    policy = read_policy(path, stack)
    migrate(connection)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('apgms policy ' || %s))", [stack])
        in_force = _in_force(connection, stack)
        before = in_force.policy if in_force else None
        if in_force and in_force.policy.digest == policy.digest:
            return in_force
        _require_succession(before, policy, path)
        now = DatabaseClock(connection).now()
        signers = _signers(before or policy, policy, Path(path), now)
        _pin(connection, policy, signers)
    return Pinned(policy, before, signers, first=before is None)


def read_policy(path: str, stack: str) -> Policy:
    """Return the policy in a file, whether it is in force or not.

    :raises ApgmsError: ``policy.unreadable``, ``policy.malformed``, ``policy.other_stack``,
        ``signers.*``
    """
    policy = parse_policy(_read(Path(path)), path)
    if policy.stack != stack:
        raise _refused(
            "other_stack",
            path,
            f"it is the policy of {policy.stack}, this run is for {stack}",
            f"set apgms_policy to the policy of {stack}",
        )
    return policy


def signature_path(path: Path, principal: str) -> Path:
    """Return where a signer's signature of the policy stands: ``policy.json.PRINCIPAL.sig``."""
    return path.with_name(f"{path.name}.{principal}.sig")


def _named(policy: Policy) -> dict[str, Any]:
    return {"version": policy.version, "sha256": policy.digest}


def _in_force(connection: Connection, stack: str) -> Pinned | None:
    row = connection.execute(
        "SELECT document, version, signers, version = min(version) OVER ()"
        " FROM apgms_release.policy WHERE stack = %s ORDER BY version DESC LIMIT 1",
        [stack],
    ).fetchone()
    if row is None:
        return None
    document, version, signers, first = row
    where = f"apgms_release.policy, {stack}, version {version}"
    policy = parse_policy(bytes(document), where)
    return Pinned(policy, policy, tuple(signers), first)


def _require_succession(before: Policy | None, policy: Policy, path: str) -> None:
    if before is None:
        return
    if policy.version < before.version:
        why = f"version {before.version} is in force, the file holds version {policy.version}"
        raise _refused("older", path, why, "restore the newest policy.json in the inventory")
    if policy.version == before.version:
        why = (
            f"version {policy.version} was pinned with digest {before.digest},"
            f" the file has {policy.digest}"
        )
        raise _refused(
            "edited", path, why, "undo the edit; a change is a new version signed by the quorum"
        )
    if policy.version > before.version + 1:
        why = f"version {before.version} is in force, the file holds version {policy.version}"
        raise _refused(
            "skipped_version", path, why, f"bring version {before.version + 1} into force first"
        )
    if policy.previous != before.digest:
        why = f"it succeeds {policy.previous}, in force is {before.digest}"
        raise _refused(
            "swapped", path, why, "set previous to the digest in force and have it signed again"
        )


def _signers(judge: Policy, policy: Policy, path: Path, now: datetime) -> tuple[str, ...]:
    found = tuple(
        principal
        for principal, signer in judge.signers.items()
        if "policy" in signer.kinds and signature_path(path, principal).exists()
    )
    for principal in found:
        file = signature_path(path, principal)
        require_signature(
            judge,
            principal=principal,
            kind="policy",
            stack=policy.stack,
            message=canonical(policy.document),
            signature=_read(file),
            now=now,
            where=str(file),
        )
    missing = missing_from_quorum(judge, "policy", found)
    if missing:
        whose = "its own quorum" if judge is policy else f"the quorum of version {judge.version}"
        raise _refused(
            "unsigned",
            str(path),
            f"it is not signed by {whose}: {missing}",
            f"ssh-keygen -Y sign -n apgms-policy-{policy.stack} -f KEY < {path} >"
            f" {signature_path(path, 'PRINCIPAL')}",
        )
    return found


def _pin(connection: Connection, policy: Policy, signers: tuple[str, ...]) -> None:
    connection.execute(
        "INSERT INTO apgms_release.policy (stack, version, sha256, document, signers)"
        " VALUES (%s, %s, %s, %s, %s)",
        [policy.stack, policy.version, policy.digest, canonical(policy.document), list(signers)],
    )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        mend = mend_reading(path, error, "check apgms_policy")
        raise _refused("unreadable", str(path), error.strerror or str(error), mend) from None


def _refused(name: str, where: str, why: str, mend: str) -> ApgmsError:
    return ApgmsError(f"policy.{name}", "The policy is refused", where=where, why=why, mend=mend)
