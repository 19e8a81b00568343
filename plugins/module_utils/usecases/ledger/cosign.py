# GNU General Public License v3.0+ (see COPYING)
"""The auditor's confirmation of a ledger checkpoint: a C2SP cosignature.

What it says is that the auditor has rebuilt the tree from the archived rows, and counted again what
the snapshots say by namespace: from the first row on, since nothing that he signed before holds these
totals. He needs the object store and his own copy of the policy, no database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...domain.approval.policy import Policy
from ...domain.formats.canonical import canonical
from ...domain.ledger import checkpoint as notes
from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import TreeBuilder
from ...errors import ApgmsError
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ...ports.signer import Signer, key_id
from ..acts.progress import Progress, say_into
from .archive import admitted_later, segments
from .log import LedgerLog, LogHead, LogSnapshot, forked, no_head, object_damaged
from .namespaces import Namespaces, Totals
from .origin import log_in_force


@dataclass(frozen=True)
class Cosigned:
    """A confirmed checkpoint. ``line`` is None in what was confirmed before."""

    head: LogHead
    cosigner: str
    confirmed_size: int
    """Tree size of the checkpoint confirmed before; 0 for the first."""
    rebuilt_rows: int
    line: bytes | None


def cosign(
    store: ObjectStore,
    policy: Policy,
    signer: Signer,
    clock: Clock,
    progress: Progress | None = None,
) -> Cosigned:
    """Rebuild the tree of the archived rows, then confirm the newest checkpoint.

    :param signer: the auditor's Ed25519 key, one that the policy pins as a cosigner
    :param progress: told how many rows are done
    :raises ApgmsError: ``log.unknown_cosigner``, ``log.nothing_to_cosign``, ``log.forked``,
        ``log.segment_damaged``, ``log.tile_damaged``, ``log.object_damaged``
    """
    log = log_in_force(store, policy)
    name = _cosigner(policy, signer)
    head = log.newest()
    if not head.note:
        raise _nothing(log, policy.stack)
    before = log.cosigned(name) or no_head(log.origin)
    if name in log.cosignatures(head):
        return Cosigned(head, name, before.tree_size, 0, None)
    log.require_prefix(before, head)
    _rebuild(log, head, progress or Progress(say_into(None)))
    time = int(clock.now().timestamp())
    cosignature = notes.cosign(head.note, name, signer.public_pem, time, signer.sign)
    store.put_new(log.cosignature_key(head.tree_size, name), cosignature)
    return Cosigned(head, name, before.tree_size, head.tree_size, cosignature)


def _rebuild(log: LedgerLog, head: LogHead, progress: Progress) -> None:
    builder = TreeBuilder()
    known: dict[str, Any] = {}
    progress.begin()
    for snapshot in admitted_later(log, 0):
        namespaces, totals = Namespaces(known, snapshot.columns), Totals(snapshot.columns)
        for segment in segments(log, snapshot):
            leaves = leaf_hashes(line(segment.columns), segment.lines)
            builder.append(leaves)
            namespaces.add(segment.lines, leaves)
            totals.add(segment.lines)
            progress.done("Counting archived rows", builder.size, head.tree_size, "rows")
        if builder.root() != log.head(snapshot.tree_size).root:
            where = log.at(log.key("segment/"))
            raise forked(where, "the archived rows do not give the signed root")
        _require_as_counted(log, snapshot, builder.root(), namespaces.document(totals.found()))
        known = snapshot.namespaces


def _require_as_counted(
    log: LedgerLog, snapshot: LogSnapshot, root: bytes, counted: dict[str, Any]
) -> None:
    where = log.at(log.snapshot_key(snapshot.tree_size))
    if snapshot.root != root:
        raise object_damaged(where, "its root is not that of its checkpoint")
    rows = sum(entry["rows"] for entry in counted.values())
    if canonical(snapshot.namespaces) != canonical(counted) or rows != snapshot.tree_size:
        raise object_damaged(
            where,
            "the archived rows do not have the totals and digests that it gives by namespace",
        )


def _cosigner(policy: Policy, signer: Signer) -> str:
    for name, pem in policy.log.cosigners.items():
        if key_id(pem.encode()) == signer.key_id:
            return name
    raise ApgmsError(
        "log.unknown_cosigner",
        "This key may not confirm checkpoints",
        where="cosign_key",
        why=f"the policy's log.cosigners do not name the key {signer.key_id}",
        mend="name the auditor's own key, or have log.cosigners of the policy extended and signed",
    )


def _nothing(log: LedgerLog, stack: str) -> ApgmsError:
    return ApgmsError(
        "log.nothing_to_cosign",
        "There is no checkpoint to confirm",
        where=log.at(log.key("checkpoint/")),
        why="no ledger snapshot has been taken",
        mend=f"make ledger-snapshot STACK={stack}",
    )
