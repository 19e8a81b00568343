# GNU General Public License v3.0+ (see COPYING)
"""The policy in force: signed, pinned at first use, succeeded only by its own quorum.

The first policy of a stack is trusted on first use: it must be signed by the quorum that it names
itself, and nothing else vouches for it. From then on the pin in ``apgms_release`` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..domain.policy import Policy, missing_from_quorum, parse_policy
from ..errors import ApgmsError
from ..ports.clock import DatabaseClock
from ..ports.schema.migrate import migrate
from .journal import Journal
from .signatures import require_signature

if TYPE_CHECKING:
    from ..ports.database import Connection

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Pinned:
    """The policy in force, and what was pinned before this call."""

    policy: Policy
    before: Policy | None
    signers: tuple[str, ...]
    """The principals whose signatures brought it into force."""


def load_policy(connection: Connection, path: str, stack: str) -> Policy:
    """Return the policy at ``path`` where it is, or may now become, the one in force.

    A new policy is pinned, in a transaction of its own or in the caller's.

    :raises ApgmsError: as :func:`pin_policy`
    """
    return pin_policy(connection, path, stack).policy


def pin_policy(
    connection: Connection,
    path: str,
    stack: str,
    journal: Journal | None = None,
) -> Pinned:
    """Pin the policy at ``path`` if it is the first or the successor; return what is in force.

    :param journal: records a new pin
    :raises ApgmsError: ``policy.unreadable``, ``policy.malformed``, ``policy.other_stack``,
        ``policy.edited``, ``policy.older``, ``policy.skipped_version``, ``policy.swapped``,
        ``policy.unsigned``, ``signers.*``, ``signature.*``
    """
    migrate(connection)
    data = _read(Path(path))
    policy = parse_policy(data, path)
    if policy.stack != stack:
        raise _refused(
            "other_stack",
            path,
            f"it is the policy of {policy.stack}, this run is for {stack}",
            f"set apgms_policy to the policy of {stack}",
        )
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('apgms policy ' || %s))", [stack])
        before = _in_force(connection, stack)
        if before and before[0].digest == policy.digest:
            return Pinned(policy, *before)
        _require_succession(before[0] if before else None, policy, path)
        judge = before[0] if before else policy
        signers = _signers(judge, policy, Path(path), data, DatabaseClock(connection).now())
        _pin(connection, policy, data, signers)
        if journal:
            body = {"version": policy.version, "sha256": policy.digest, "signers": list(signers)}
            journal.record("policy.pinned", body)
    return Pinned(policy, before[0] if before else None, signers)


def signature_path(path: Path, principal: str) -> Path:
    """Return where a signer's signature of the policy stands: ``policy.json.PRINCIPAL.sig``."""
    return path.with_name(f"{path.name}.{principal}.sig")


def _in_force(connection: Connection, stack: str) -> tuple[Policy, tuple[str, ...]] | None:
    row = connection.execute(
        "SELECT document, version, signers FROM apgms_release.policy"
        " WHERE stack = %s ORDER BY version DESC LIMIT 1",
        [stack],
    ).fetchone()
    if row is None:
        return None
    where = f"apgms_release.policy, {stack}, version {row[1]}"
    return parse_policy(bytes(row[0]), where), tuple(row[2])


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


def _signers(
    judge: Policy, policy: Policy, path: Path, data: bytes, now: datetime
) -> tuple[str, ...]:
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
            message=data,
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


def _pin(connection: Connection, policy: Policy, data: bytes, signers: tuple[str, ...]) -> None:
    connection.execute(
        "INSERT INTO apgms_release.policy (stack, version, sha256, document, signers)"
        " VALUES (%s, %s, %s, %s, %s)",
        [policy.stack, policy.version, policy.digest, data, list(signers)],
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(
            "unreadable", str(path), error.strerror or str(error), "check apgms_policy"
        ) from None
    if len(data) > MAX_BYTES:
        raise _refused("unreadable", str(path), f"more than {MAX_BYTES} bytes", "shorten it")
    return data


def _refused(name: str, where: str, why: str, mend: str) -> ApgmsError:
    return ApgmsError(f"policy.{name}", "The policy is refused", where=where, why=why, mend=mend)
