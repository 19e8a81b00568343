# GNU General Public License v3.0+ (see COPYING)
"""Approve: examine, ask for a clear yes, sign with one's own key, write the inventory entry.

No database is needed: an approver has no business in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...domain.approval.policy import Policy
from ...domain.approval.ssh_signature import Refusal
from ...domain.approval.statement import SUBJECTS, Signed, require_current
from ...domain.release.manifest import Manifest
from ...errors import ApgmsError
from ...ports.clock import iso_utc
from ...ports.object_store import ObjectStore
from .examination import Examination, examine
from .sign import sign_statement
from .signatures import require_signed
from .statements import file_name, read_statements, write_statement

KIND_OF_PURPOSE = {"prototype": "prototype", "release": "release"}
"""Purpose of a manifest to the kind of statement that approves it."""


@dataclass(frozen=True)
class Matter:
    """What somebody is asked to sign: a manifest by its checksum, or a kind with its subject."""

    manifest: str | None
    kind: str | None = None
    subject: dict[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """Who signs what, with which key, and the yes."""

    matter: Matter
    signer: str
    key: str
    confirm: str | None
    statements: str | None
    """The folder that the statement is written to."""
    reason: str = ""
    minutes: int | None = None


@dataclass(frozen=True)
class Draft:
    """What would be signed."""

    kind: str
    subject: dict[str, Any]
    confirmation: str
    """What the signer states to say yes."""


@dataclass(frozen=True)
class Approval:
    """What was signed; ``signed`` is None in a prediction of a new one."""

    draft: Draft
    signed: Signed | None
    new: bool
    path: str | None
    """The statement's file, where it stands in a folder."""

    @property
    def difference(self) -> tuple[Any, Any]:
        """The approved subject before and after."""
        after = {"kind": self.draft.kind, **self.draft.subject}
        return (None if self.new else after), after

    def result(self) -> dict[str, Any]:
        """Return the statement as data."""
        if self.signed is None:
            return {}
        signed, statement = self.signed, self.signed.statement
        name = file_name(statement)
        return {
            "statement": {
                "kind": statement.kind,
                "signer": statement.signer,
                "sha256": signed.sha256,
                "expires_at": iso_utc(statement.expires_at),
            },
            "path": self.path,
            "entry": {name: signed.data.decode(), f"{name}.sig": signed.signature.decode()},
        }


def draft(store: ObjectStore, policy: Policy, matter: Matter) -> tuple[Draft, Examination | None]:
    """Return what is to be signed, and the examination of its manifest where it has one.

    :raises ApgmsError: ``approve.nothing_named``, ``approve.not_approved_afterwards``,
        ``approve.other_kind``, and those of :func:`examine`
    """
    if matter.manifest:
        examination = examine(store, policy, matter.manifest)
        manifest = examination.manifest
        kind = _kind(manifest, matter.kind)
        return Draft(kind, _subject(manifest), manifest.checksum), examination
    if matter.kind and matter.subject and matter.kind not in KIND_OF_PURPOSE.values():
        return Draft(matter.kind, matter.subject, matter.kind), None
    raise ApgmsError(
        "approve.nothing_named",
        "There is nothing to approve",
        where="approve_manifest, or approve_kind with approve_subject",
        why="neither a manifest checksum nor another kind of statement with its subject was given",
        mend="run the command that the waiting playbook printed",
    )


def approve(
    store: ObjectStore,
    policy: Policy,
    order: Order,
    now: datetime,
    nonce: str,
    *,
    predict: bool = False,
) -> Approval:
    """Sign what is asked for and write it, unless it stands there already.

    :param now: this machine's time
    :param nonce: 32 hexadecimal digits, never used before
    :param predict: carry out every check, sign and write nothing
    :raises ApgmsError: ``approve.check_failed``, ``approve.not_confirmed``, and those of
        :func:`draft`, :func:`sign_statement` and :func:`write_statement`
    """
    wanted, examination = draft(store, policy, order.matter)
    if examination and examination.failed:
        raise _check_failed(examination)
    standing = _standing(policy, order, wanted, now)
    if standing:
        return Approval(wanted, standing, new=False, path=standing.where)
    if order.confirm != wanted.confirmation:
        raise _not_confirmed(order, wanted)
    if predict:
        return Approval(wanted, None, new=True, path=None)
    signed = sign_statement(
        policy,
        kind=wanted.kind,
        subject=wanted.subject,
        signer=order.signer,
        key=order.key,
        now=now,
        nonce=nonce,
        reason=order.reason,
        minutes=order.minutes,
    )
    path = write_statement(order.statements, signed) if order.statements else None
    return Approval(wanted, signed, new=True, path=path)


def _kind(manifest: Manifest, asked: str | None) -> str:
    kind = KIND_OF_PURPOSE.get(manifest.purpose)
    if kind is None:
        raise ApgmsError(
            "approve.not_approved_afterwards",
            f"A {manifest.purpose} is not approved afterwards",
            where=f"manifest {manifest.checksum}",
            why="a rehearsal needs a permit before it runs, and nothing after it",
            mend="-e approve_kind=rehearsal -e '{\"approve_subject\": {...}}' signs a permit",
        )
    if asked not in (None, kind):
        raise ApgmsError(
            "approve.other_kind",
            f"This manifest is not approved by a {asked} statement",
            where=f"manifest {manifest.checksum}",
            why=f"it is a {manifest.purpose} of {manifest.stack}",
            mend=f"leave approve_kind out, or set it to {kind}",
        )
    return kind


def _subject(manifest: Manifest) -> dict[str, Any]:
    named = {"manifest_sha256": manifest.checksum, **manifest.document()}
    return {name: named[name] for name in SUBJECTS["release"]}


def _standing(policy: Policy, order: Order, wanted: Draft, now: datetime) -> Signed | None:
    found = read_statements(order.statements)[0] if order.statements else []
    for signed in found:
        statement = signed.statement
        said = (statement.kind, statement.signer, statement.subject, statement.reason)
        if said == (wanted.kind, order.signer, wanted.subject, order.reason):
            try:
                require_current(statement, policy, now, signed.where)
                require_signed(policy, signed, now)
            except Refusal:
                continue
            return signed
    return None


def _check_failed(examination: Examination) -> ApgmsError:
    return ApgmsError(
        "approve.check_failed",
        "This manifest must not be approved",
        where=f"manifest {examination.manifest.checksum}",
        why="; ".join(f"{check.name}: {check.found}" for check in examination.failed),
        mend="have the cause mended and a new bundle built; never edit a bundle",
        checks=examination.lines(),
    )


def _not_confirmed(order: Order, wanted: Draft) -> ApgmsError:
    return ApgmsError(
        "approve.not_confirmed",
        "Nothing was signed",
        where=f"the {wanted.kind} statement of {order.signer}",
        why="it was not confirmed",
        mend=f"answer the question with yes, or without a terminal add -e"
        f" approve_confirm={wanted.confirmation}",
    )
