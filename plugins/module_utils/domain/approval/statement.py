# GNU General Public License v3.0+ (see COPYING)
"""Signed statements: what somebody has approved, for how long, and once.

A statement is canonical JSON, signed with the signer's own SSH key over the file's bytes.
``docs/approvals.md`` describes each member and kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Optional

from ..formats.canonical import canonical, parse_canonical, sha256_hex
from ..formats.shape import HEX_SHA256, STACK, TEXT, require_shape
from .policy import Policy
from .signers import PRINCIPAL
from .ssh_signature import Refusal

SCHEMA = "apgms.release/statement/1"
SUBJECTS: dict[str, tuple[str, ...]] = {
    "prototype": ("manifest_sha256", "rates_version", "source_revision", "collection_version"),
    "release": ("manifest_sha256", "rates_version", "source_revision", "collection_version"),
    "rehearsal": ("submission_id", "source_revision", "collection_version"),
    "override": ("release_window",),
    "rollback": ("manifest_sha256", "plan_sha256"),
    "lock_break": ("lease_token",),
    "restore": ("act", "sha256"),
    "intent": ("act", "manifest_sha256", "plan_sha256"),
}
"""Kind of statement to the members of its subject, which is what it approves."""
SINGLE_USE = frozenset(SUBJECTS) - {"prototype", "override"}
NEEDS_REASON = frozenset({"rehearsal", "override", "rollback", "lock_break", "restore"})

Subject = Mapping[str, Optional[str]]  # noqa: UP045 - ansible-test reads it as older Python


@dataclass(frozen=True)
class Statement:
    """A statement. Times are UTC; ``expires_at`` is excluded."""

    kind: str
    stack: str
    signer: str
    not_before: datetime
    expires_at: datetime
    nonce: str
    reason: str
    subject: dict[str, str | None]

    def to_bytes(self) -> bytes:
        """Return the content of the statement's file, which is what is signed."""
        return canonical(
            {
                **vars(self),
                "schema": SCHEMA,
                "not_before": _text(self.not_before),
                "expires_at": _text(self.expires_at),
            }
        )


@dataclass(frozen=True)
class Signed:
    """A statement as it stands in a file, with its signature; nothing is verified by itself."""

    statement: Statement
    data: bytes
    signature: bytes
    where: str

    @property
    def sha256(self) -> str:
        """The digest of the statement's file."""
        return sha256_hex(self.data)


def parse_statement(data: bytes, where: str) -> Statement:
    """Return the statement in the bytes of its file.

    :raises Refusal: ``statement.malformed``
    """
    try:
        return _read(parse_canonical(data))
    except (ValueError, RecursionError) as error:
        raise refused("malformed", where, str(error)) from None


def require_subject(statement: Statement, stack: str, subject: Subject, where: str) -> None:
    """Check that the statement is about ``subject``; members not given there may be anything.

    :raises Refusal: ``statement.other_stack``, ``statement.other_manifest``,
        ``statement.other_revision``, ``statement.other_rates``,
        ``statement.other_collection_version``, ``statement.other_subject``
    """
    if statement.stack != stack:
        raise refused("other_stack", where, f"it is for {statement.stack}, asked was {stack}")
    for name, wanted in subject.items():
        stated = statement.subject.get(name)
        if stated != wanted:
            rule = _OTHER.get(name, "other_subject")
            raise refused(rule, where, f"it names {name} {stated}, asked was {wanted}")


def require_permission(statement: Statement, policy: Policy, where: str) -> None:
    """Check that the policy lets the signer sign statements of this kind.

    :raises Refusal: ``statement.unknown_signer``, ``statement.kind_not_allowed``
    """
    signer = policy.signers.get(statement.signer)
    if signer is None:
        why = f"{statement.signer!r} is no signer of policy version {policy.version}"
        raise refused("unknown_signer", where, why)
    if statement.kind not in signer.kinds:
        why = f"{statement.signer} may sign {', '.join(signer.kinds)}, not {statement.kind}"
        raise refused("kind_not_allowed", where, why)


def require_current(statement: Statement, policy: Policy, now: datetime, where: str) -> None:
    """Check the statement's time, and that it is not valid for longer than the policy allows.

    :raises Refusal: ``statement.not_yet_valid``, ``statement.expired``, ``statement.too_long``
    """
    require_begun(statement, now, where)
    if statement.expires_at <= now:
        why = f"it expired at {_text(statement.expires_at)}, now is {_text(now)}"
        raise refused("expired", where, why)
    minutes = longest_minutes(policy, statement.kind)
    if statement.expires_at - statement.not_before > timedelta(minutes=minutes):
        why = f"it is valid for more than the {minutes} minutes that the policy allows"
        raise refused("too_long", where, why)


def require_begun(statement: Statement, now: datetime, where: str) -> None:
    """Check that the statement's time has come; it may have passed.

    :raises Refusal: ``statement.not_yet_valid``
    """
    if now < statement.not_before:
        why = f"it is valid from {_text(statement.not_before)}, now is {_text(now)}"
        raise refused("not_yet_valid", where, why)


def longest_minutes(policy: Policy, kind: str) -> int:
    """Return how long a statement of this kind may be valid."""
    return policy.prototype_minutes if kind == "prototype" else policy.approval_minutes


def stack_of(kind: str, stack: str) -> str:
    """Return the stack that a statement of ``kind`` must name when ``stack`` asks for it."""
    return "proto" if kind == "prototype" else stack


def already_used(signed: Signed) -> Refusal:
    """Return the refusal of a statement that was good for one use and has had it."""
    statement = signed.statement
    why = f"the {statement.kind} of {statement.signer}, nonce {statement.nonce}, was used before"
    return refused("used", signed.where, why)


def refused(name: str, where: str, why: str) -> Refusal:
    """Return the refusal ``statement.NAME``."""
    mend = _MENDS.get(name, "have a statement about this very subject signed")
    return Refusal(f"statement.{name}", "A signed statement does not count", where, why, mend)


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SHAPE = {
    "schema": re.compile(re.escape(SCHEMA)),
    "kind": re.compile("|".join(SUBJECTS)),
    "stack": STACK,
    "signer": PRINCIPAL,
    "not_before": _TIME,
    "expires_at": _TIME,
    "nonce": re.compile(r"[0-9a-f]{32}"),
    "reason": re.compile(r".{0,500}"),
    "subject": dict,
}
_OTHER = {
    "manifest_sha256": "other_manifest",
    "source_revision": "other_revision",
    "rates_version": "other_rates",
    "collection_version": "other_collection_version",
}
_MENDS = {
    "malformed": "write it with playbooks/approve.yml, or as docs/approvals.md describes",
    "unsigned": "put the signature beside it: NAME.json.sig",
    "unknown_signer": "get it signed by a signer of the policy, or have the policy changed",
    "kind_not_allowed": "get it signed by somebody whom the policy lists for this kind",
    "not_yet_valid": "wait, or have it signed again",
    "expired": "have it signed again",
    "too_long": "have it signed again with a shorter validity",
    "used": "have a new one signed: each of this kind is good for one use",
    "own_approval": "get it signed by somebody else than the operator",
    "same_person": "get it signed by another person",
    "superseded": "release what the newer prototype approval names",
    "other_stack": "put it into the inventory of its own stack",
}


def _read(document: Any) -> Statement:
    require_shape(document, _SHAPE, "the statement")
    names = SUBJECTS[document["kind"]]
    shape = {name: HEX_SHA256 if name.endswith("sha256") else TEXT for name in names}
    if document["kind"] == "intent":
        shape["plan_sha256"] = (HEX_SHA256, None)  # type: ignore[assignment]
    require_shape(document["subject"], shape, "the statement: subject")
    times = [datetime.fromisoformat(document[name]) for name in ("not_before", "expires_at")]
    if times[0] >= times[1]:
        raise ValueError("the statement expires before it becomes valid")
    if document["kind"] in NEEDS_REASON and not document["reason"].strip():
        raise ValueError(f"a statement of kind {document['kind']} must give a reason")
    members = {name: value for name, value in document.items() if name != "schema"}
    return Statement(**{**members, "not_before": times[0], "expires_at": times[1]})


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
