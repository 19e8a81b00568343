# GNU General Public License v3.0+ (see COPYING)
"""Which origin of the ledger log is in force: the policy's, or the newest that a restore opened.

An origin is opened by a document that names the one before and its newest head, and by the signed
restore statements beside it. Whoever reads the log holds both against the policy in force.
``docs/ledger-log.md`` describes the objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from ...domain.approval.policy import Policy
from ...domain.approval.ssh_signature import Refusal
from ...domain.approval.statement import Signed, parse_statement, refused
from ...domain.formats.canonical import canonical, sha256_hex
from ...errors import ApgmsError
from ...ports.clock import SystemClock
from ...ports.object_store import ObjectMissing, ObjectStore, read
from ..approvals.approvals import review_kept
from ..approvals.review import Review
from ..approvals.statements import file_name
from .log import LedgerLog

SCHEMA = "apgms.release/log-restore/1"
ACT = "ledger_log"
"""The act that a restore statement about the log names in its subject."""
DOCUMENT = "restore.json"
_OPENED = re.compile(rf"([0-9]{{4,}})/{re.escape(DOCUMENT)}")
_ORIGIN = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class Opening:
    """The origin after ``left``, and what opens it."""

    store: ObjectStore
    left: LedgerLog

    @property
    def generation(self) -> int:
        """The number of the new origin; the policy's own is 1."""
        return self.left.generation + 1

    @property
    def number(self) -> str:
        """The generation as keys have it."""
        return f"{self.generation:04d}"

    @property
    def origin(self) -> str:
        """The new origin."""
        return f"{self.left.pins.origin}/{self.generation}"

    @cached_property
    def document(self) -> bytes:
        """What names the new origin and the newest head of the one that is left.

        :raises ApgmsError: ``log.checkpoint_invalid``
        """
        head = self.left.newest()
        return canonical(
            {
                "schema": SCHEMA,
                "origin": self.origin,
                "previous": {
                    "origin": self.left.origin,
                    "tree_size": str(head.tree_size),
                    "root": head.root.hex(),
                },
            }
        )

    @property
    def subject(self) -> dict[str, str]:
        """What a restore statement is about that allows it."""
        return {"act": ACT, "sha256": sha256_hex(self.document)}

    def key(self, name: str) -> str:
        """Return the object key of something that belongs to it."""
        return f"log/{self.left.pins.origin}/restore/{self.number}/{name}"

    def put(self, signed: Iterable[Signed]) -> None:
        """Store the statements, and then the document that opens the origin."""
        for one in signed:
            name = file_name(one.statement)
            self.store.put_new(self.key(f"{name}.sig"), one.signature)
            self.store.put_new(self.key(name), one.data)
        self.store.put_new(self.key(DOCUMENT), self.document)

    def review(self, policy: Policy) -> Review:
        """Return which of the stored statements count by ``policy``, and what the quorum lacks."""
        found: list[Signed] = []
        unreadable: list[Refusal] = []
        for key in self.store.keys(self.key("")):
            if key.endswith(".json") and key != self.key(DOCUMENT):
                try:
                    found.append(self._statement(key))
                except Refusal as error:
                    unreadable.append(error)
        review = review_kept(policy, "restore", self.subject, found, SystemClock().now())
        review.refusals += unreadable
        return review

    def _statement(self, key: str) -> Signed:
        where, data = self.left.at(key), read(self.store, key)
        statement = parse_statement(data, where)
        try:
            return Signed(statement, data, read(self.store, f"{key}.sig"), where)
        except ObjectMissing:
            raise refused("unsigned", where, "no object holds its signature") from None


def log_in_force(
    store: ObjectStore,
    policy: Policy,
    digests: Callable[[str], dict[int, str]] = lambda origin: {},
) -> LedgerLog:
    """Return the log of the newest origin, each step to it held against the policy.

    :param digests: the SHA-256 that a database has recorded of ``snapshot/<size>``, by size, given
        the origin
    :raises ApgmsError: ``log.malformed_origin``, ``log.origin_unapproved``,
        ``log.checkpoint_invalid``
    """
    origin = policy.log.origin
    for opening in stored_openings(store, policy):
        review = opening.review(policy)
        if review.missing:
            said = "; ".join([review.missing, *(str(one.why) for one in review.refusals)])
            raise _unapproved(opening, policy, said)
        origin = opening.origin
    return LedgerLog(store, policy.log, origin, digests(origin))


def stored_openings(store: ObjectStore, policy: Policy) -> list[Opening]:
    """Return what has opened an origin after another, ascending; no statement is looked for.

    :raises ApgmsError: ``log.malformed_origin``, ``log.origin_unapproved``,
        ``log.checkpoint_invalid``
    """
    base = policy.log.origin
    _require_origin(base)
    folder = f"log/{base}/restore/"
    names = (_OPENED.fullmatch(key.removeprefix(folder)) for key in store.keys(folder))
    log, found = LedgerLog(store, policy.log, base), []
    for number in sorted((name[1] for name in names if name), key=int):
        opening = Opening(store, log)
        if number != opening.number:
            raise _unapproved(opening, policy, f"{number} is there, {opening.number} is not")
        if read(store, opening.key(DOCUMENT)) != opening.document:
            why = f"it does not name the newest head of {log.origin}, as it must: "
            raise _unapproved(opening, policy, why + opening.document.decode())
        found.append(opening)
        log = LedgerLog(store, policy.log, opening.origin)
    return found


def _require_origin(origin: str) -> None:
    if not _ORIGIN.fullmatch(origin):
        raise ApgmsError(
            "log.malformed_origin",
            "The origin of the ledger log cannot be used",
            where="log.origin in the policy",
            why=f"{origin!r} is not a URL without scheme, such as apgms.example/prod",
            mend="correct log.origin and have the policy signed again",
        )


def _unapproved(opening: Opening, policy: Policy, why: str) -> ApgmsError:
    return ApgmsError(
        "log.origin_unapproved",
        "No signed restore statement stands behind an origin of the ledger log; nothing acts on it",
        where=opening.left.at(opening.key(DOCUMENT)),
        why=why,
        mend="find out who put it there; the store's owner takes out what nobody signed; what was "
        "opened in earnest is signed again, where a signer has left the policy, by: "
        f"make ledger-snapshot STACK={policy.stack} ARGS='-e ledger_snapshot_restore=true'",
    )
