# GNU General Public License v3.0+ (see COPYING)
"""The ledger snapshot: admits the new rows of owa_ledger to the log and signs its new head.

A snapshot costs what is new since the last one. It is taken in this order, so that it can be cut
off anywhere and taken up again: decide which rows (the plan), store their segments and tiles, store
what the snapshot says of itself and then the signed checkpoint, record it in the database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...domain.approval.policy import Policy
from ...domain.formats.canonical import sha256_hex
from ...domain.ledger import checkpoint as notes
from ...domain.ledger.extent import NAMED_RANGES, compress, pairs, ranges_of
from ...domain.ledger.tree import TreeBuilder
from ...errors import ApgmsError
from ...libraries import psycopg
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore, PutHere, Putter
from ...ports.signer import Signer, key_id
from ..acts.progress import Progress, say_into
from .admission import Admission, look, plan_admission
from .archive import Damage, admitted_later, archived_extents, rows_gone
from .chain_rule import Deviation, Scope, check_chains
from .full_verification import rows_that_differ, verify_history
from .intact import compare_heads
from .log import LedgerLog, LogHead, LogSnapshot, object_missing
from .namespaces import Namespaces, hashes_file, namespace_files
from .records import frontier, open_log, record
from .rows import (
    PeriodTotal,
    Writer,
    being_written,
    is_idle,
    missing_ids,
    one_view,
    period_totals,
    same_view_beside,
)
from .storing import store_rows
from .table import ledger_columns, require_unique_ids
from .turn import WAIT_SECONDS, one_at_a_time

if TYPE_CHECKING:
    from ...ports.database import Connection

MANY_ROWS = 50_000
"""From here on a connection, or a process, of their own is worth it."""
Verify = Literal["incremental", "full"]


@dataclass(frozen=True)
class Snapshot:
    """The head of the log after a snapshot, and what the snapshot found."""

    origin: str
    tree_size: int
    root: bytes
    checkpoint: bytes
    """The signed note, as stored."""
    namespaces: dict[str, bytes]
    """Namespace to the contents of ``ledger/<namespace>.json``."""
    ledger_hashes: bytes
    """The contents of ``ledger_hashes.json``."""
    logged: LogSnapshot
    """What it says of itself in the log."""
    first: bool
    """Whether this is the log's first head."""
    previous_size: int
    new_rows: int
    consistency: list[bytes]
    """The verified proof that the previous tree is a prefix of this one."""
    checked_rows: int
    """How many rows were checked against the chain rule: the new ones, or all of them."""
    deviations: list[Deviation]
    """Among the checked rows."""
    late: list[int]
    """Ids, ascending, that showed up below the previous frontier."""
    unfinished: list[Writer]
    """Transactions that were still writing when the wait for them ended."""
    cosigned_size: int
    """Tree size of the newest checkpoint that a cosigner confirmed; 0 where there is none."""

    @property
    def head(self) -> LogHead:
        """The head of the log after the snapshot."""
        return LogHead(self.origin, self.tree_size, self.root, self.checkpoint)

    @property
    def changed(self) -> bool:
        """Whether a new head was signed."""
        return self.new_rows > 0 or self.first

    def result(self) -> dict[str, Any]:
        """Return the snapshot as JSON values, without the contents of files."""
        hashes = {name: sha256_hex(data) for name, data in self.namespaces.items()}
        return {
            "origin": self.origin,
            "tree_size": self.tree_size,
            "root": self.root.hex(),
            "checkpoint": self.checkpoint.decode(),
            "previous_size": self.previous_size,
            "new_rows": self.new_rows,
            "checked_rows": self.checked_rows,
            "deviations": [one.document() for one in self.deviations],
            "late": {"count": len(self.late), "ids": pairs(compress(self.late), NAMED_RANGES)},
            "unfinished": [writer._asdict() for writer in self.unfinished],
            "namespaces": hashes,
            "hash_summary": [
                f"{self.origin}: {self.tree_size} rows, root {self.root.hex()}",
                *(f"ledger/{name}.json {digest}" for name, digest in hashes.items()),
                f"ledger_hashes.json {sha256_hex(self.ledger_hashes)}",
            ],
            "consistency": [proof.hex() for proof in self.consistency],
            "cosigned_size": self.cosigned_size,
        }

    def difference(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the tree, and rows, balance and chains by namespace, before and after."""
        after = {
            "tree_size": self.tree_size,
            "namespaces": {
                name: {
                    "rows": entry["rows"],
                    "balance_cents": entry["balance_cents"],
                    "chains_with_new_rows": entry["added"]["chains"] if self.changed else 0,
                }
                for name, entry in self.logged.namespaces.items()
            },
        }
        if not self.changed:
            return after, after
        before = {
            "tree_size": None if self.first else self.previous_size,
            "namespaces": {
                name: {
                    "rows": entry["rows"] - entry["added"]["rows"],
                    "balance_cents": str(
                        int(entry["balance_cents"]) - int(entry["added"]["amount_cents"])
                    ),
                    "chains_with_new_rows": 0,
                }
                for name, entry in self.logged.namespaces.items()
            },
        }
        return before, after


class _Counts(NamedTuple):
    """What the database finds out about the rows by itself."""

    deviations: list[Deviation]
    totals: list[PeriodTotal]


def take_snapshot(
    connection: Connection,
    store: ObjectStore,
    signer: Signer,
    policy: Policy,
    clock: Clock,
    *,
    verify: Verify = "incremental",
    wait_seconds: float = WAIT_SECONDS,
    progress: Progress | None = None,
) -> Snapshot:
    """Admit the new ledger rows to the log, sign the new head, and return it.

    :param signer: the log's Ed25519 key, which the policy pins
    :param verify: ``full`` hashes and checks every row again, and proves the old root from them
    :param wait_seconds: how long to wait for another snapshot, and then for transactions that are
        writing the ledger
    :param progress: told how many rows are done
    :raises ApgmsError: ``log.wrong_key``, ``log.busy``, ``log.rows_gone``, and what
        :func:`compare_heads`, :func:`plan_admission` and :func:`verify_history` raise
    """
    _require_log_key(signer, policy)
    with one_at_a_time(connection, policy, clock, wait_seconds):
        log = open_log(connection, store, policy)
        try:
            head = _catch_up(connection, log)
        except ApgmsError as error:
            if verify == "full" and error.reason in ("log.rows_differ", "log.database_behind"):
                raise rows_that_differ(connection, log, error.reason) from None
            raise
        seen = look(connection, log, head, clock, wait_seconds)
        rows = seen.new_rows + (head.tree_size if verify == "full" else 0)
        many = is_idle(connection) and rows >= MANY_ROWS
        beside = many and not being_written(connection, clock)
        done = progress or Progress(say_into(None))
        with _putting(store, seen.new_rows) as putter, one_view(connection):
            admission = plan_admission(connection, log, head, seen)
            return _take(connection, log, signer, admission, putter, beside, verify, done)


def _catch_up(connection: Connection, log: LedgerLog) -> LogHead:
    """Record the snapshots that were stored, but cut off before they were recorded."""
    recorded, head = compare_heads(connection, log)
    ahead = head.tree_size > recorded.tree_size
    for snapshot in admitted_later(log, recorded.tree_size) if ahead else ():
        extents = archived_extents(log, snapshot, frontier(connection, log.origin))
        record(connection, log.head(snapshot.tree_size), snapshot, extents)
    return head


def _take(
    connection: Connection,
    log: LedgerLog,
    signer: Signer,
    admission: Admission,
    putter: Putter,
    beside: bool,
    verify: Verify,
    progress: Progress,
) -> Snapshot:
    before = admission.head
    scope = Scope(None, admission.scope.upto) if verify == "full" else admission.scope
    checked = admission.rows_in(scope)
    if many := checked >= MANY_ROWS:
        progress.say(f"Checking the chains of {checked:,} rows")
    with _counted(connection, admission, scope, beside and many) as counted:
        if verify == "full":
            builder = verify_history(connection, log, before, progress)
        else:
            builder = log.builder(before.tree_size)
        head, logged = before, None
        if admission.plan.size or not before.note:
            logged = _admit(connection, log, admission, builder, putter, counted, progress)
            head = _signed(log, signer, logged)
        deviations = counted().deviations
    if logged is not None:
        record(connection, head, logged, admission.plan.extents)
    logged = logged or log.snapshot(head.tree_size)
    return _result(log, admission, head, logged, checked, deviations)


def _result(
    log: LedgerLog,
    admission: Admission,
    head: LogHead,
    logged: LogSnapshot,
    checked_rows: int,
    deviations: list[Deviation],
) -> Snapshot:
    before, files, cosigned = admission.head, namespace_files(logged), log.cosigned()
    return Snapshot(
        origin=log.origin,
        tree_size=head.tree_size,
        root=head.root,
        checkpoint=head.note,
        namespaces=files,
        ledger_hashes=hashes_file(files),
        logged=logged,
        first=not before.note,
        previous_size=before.tree_size,
        new_rows=head.tree_size - before.tree_size,
        consistency=log.require_prefix(before, head),
        checked_rows=checked_rows,
        deviations=deviations,
        late=list(admission.late),
        unfinished=admission.unfinished,
        cosigned_size=cosigned.tree_size if cosigned else 0,
    )


def _putting(store: ObjectStore, rows: int) -> AbstractContextManager[Putter]:
    if rows >= MANY_ROWS:
        return store.putting()
    return contextlib.nullcontext(PutHere(store.put_many))


@contextlib.contextmanager
def _counted(
    connection: Connection, admission: Admission, scope: Scope, beside: bool
) -> Iterator[Callable[[], _Counts]]:
    """Let the database check and count; yield the way to the result.

    :param beside: on a connection of its own, while what stands inside goes on
    """

    def count(there: Connection) -> _Counts:
        checked = admission.rows_in(scope) > 0
        deviations = check_chains(there, ledger_columns(there), scope) if checked else []
        return _Counts(deviations, period_totals(there, admission.scans))

    with contextlib.ExitStack() as stack:
        second = None
        if beside:
            with contextlib.suppress(psycopg.OperationalError):  # none to be had: one must do
                second = stack.enter_context(same_view_beside(connection))
        counting = None
        if second is not None:
            pool = stack.enter_context(ThreadPoolExecutor(1))
            with contextlib.suppress(RuntimeError):  # no thread to be had: one connection must do
                counting = pool.submit(count, second)
        if second is None or counting is None:
            counts = count(connection)
            yield lambda: counts
            return
        try:
            yield counting.result
        except BaseException:
            second.cancel()
            raise


def _admit(
    connection: Connection,
    log: LedgerLog,
    admission: Admission,
    builder: TreeBuilder,
    putter: Putter,
    counted: Callable[[], _Counts],
    progress: Progress,
) -> LogSnapshot:
    """Store the rows of the plan, and what the snapshot says of them."""
    before, plan = admission.head, admission.plan
    if plan.size:
        log.put_plan(before.tree_size, plan)
    namespaces = Namespaces(
        log.snapshot(before.tree_size).namespaces if before.note else {}, plan.columns
    )
    segments = store_rows(connection, log, admission, builder, namespaces, putter, progress)
    if builder.size - before.tree_size != plan.size:
        require_unique_ids(connection)
        missing = missing_ids(connection, ranges_of(plan.extents))
        raise rows_gone(log.at(log.plan_key(before.tree_size)), Damage(log.origin, tuple(missing)))
    logged = LogSnapshot(
        log.origin,
        builder.size,
        builder.root(),
        before.tree_size,
        plan.columns,
        tuple(segments),
        namespaces.document(counted().totals),
    )
    _require_stored(log, admission, logged)
    log.put_snapshot(logged)
    return logged


def _require_stored(log: LedgerLog, admission: Admission, logged: LogSnapshot) -> None:
    """Require of a store that what went into it is in it, before a head says so."""
    size = logged.previous_size
    wanted = {log.segment_key(*ends) for ends in logged.segments}
    if admission.plan.size:
        wanted.add(log.plan_key(size))
    found = {*(key for key, *_ends in log.segments_from(size)), *log.store.keys(log.plan_key(size))}
    if gone := sorted(wanted - found):
        raise object_missing(log.at(gone[0]), "it was stored a moment ago, and is gone")


def _signed(log: LedgerLog, signer: Signer, logged: LogSnapshot) -> LogHead:
    """Sign the head of a snapshot, and store it."""
    checkpoint = notes.Checkpoint(log.origin, logged.tree_size, logged.root)
    note = notes.sign(checkpoint, signer.public_pem, signer.sign)
    head = LogHead(log.origin, logged.tree_size, logged.root, note)
    log.put_head(head)
    return head


def _require_log_key(signer: Signer, policy: Policy) -> None:
    pinned = key_id(policy.log.key.encode())
    if signer.key_id != pinned:
        raise ApgmsError(
            "log.wrong_key",
            "The log's signing key is not the one that the policy pins",
            where="apgms_log_key",
            why=f"its key id is {signer.key_id}, the policy pins {pinned}",
            mend="name the log key of this stack in apgms_log_key",
        )
