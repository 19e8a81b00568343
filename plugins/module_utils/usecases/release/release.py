# GNU General Public License v3.0+ (see COPYING)
"""Release a manifest: exactly once, and from wherever an earlier run stopped.

``docs/exactly-once.md`` describes the states, the steps and what follows from a crash at each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.approval.statement import Signed
from ...domain.release.journal_chain import Row
from ...domain.release.manifest import Manifest
from ...domain.release.release_state import State
from ...ports.clock import Clock
from ...ports.gateway import Gateway, check_host
from ...ports.object_store import ObjectStore
from ..acts.journal import Journal
from ..acts.journal_replay import catch_up
from ..acts.lease import Lease, current, hold
from ..acts.progress import Progress
from ..acts.steps import Steps
from ..approvals.approvals import consume, require_statement
from ..bundle.manifests import load_manifest
from .acknowledgement import record_receipt, stored_receipt
from .course import Run, until_receipt
from .gates import require_gateway, require_may_send, require_releasable
from .intent import bundle_body, intend
from .records import Context, Release, find, guarded, move
from .renewal import renewed_approvals

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Order:
    """What is to be released, by whom, and how long this run may take.

    ``holder`` is how other runs will know this one; ``break_token`` the number of a live lease to
    break, as a signed ``lock_break`` statement allows.
    """

    stack: str
    manifest_sha256: str
    operator: str
    operator_key: str
    statements_dir: str
    holder: str
    time_limit: timedelta
    break_token: int | None = None


@dataclass(frozen=True)
class Ports:
    """What a release works with."""

    connection: Connection
    store: ObjectStore
    gateway: Gateway
    policy: Policy
    clock: Clock
    nonce: Callable[[], str]
    """Gives 32 hexadecimal digits that were never used before."""
    progress: Progress
    steps: Steps = field(default_factory=Steps)


@dataclass(frozen=True)
class Released:
    """What became of a release in this run; ``before`` is None where there was no intent."""

    before: Release | None
    after: Release
    replayed: list[Row]


def release(order: Order, ports: Ports) -> Released:
    """Carry a release on until its receipt is recorded.

    :raises ApgmsError: ``release.not_finished`` where the time limit or the window ended first;
        ``lease.*``, ``journal.*``, ``release.*``, ``receipt.*``, ``gateway.*``, ``window.*``,
        ``approval.*``, ``log.*``, ``manifest.*``
    """
    manifest, finished = _look_up(order, ports)
    if finished:
        return Released(finished, finished, [])
    deadline = ports.clock.now() + order.time_limit
    with _held(order, ports) as (context, replayed):
        before = find(ports.connection, manifest.checksum)
        return Released(before, _carry_on(context, manifest, before, deadline), replayed)


def predict(order: Order, ports: Ports) -> Released:
    """Return what :func:`release` would do if the gateway accepts all, without asking it anything.

    Runs inside a rehearsal, on an overlay store.

    :raises ApgmsError: as :func:`release`, as far as this side alone decides
    """
    manifest, finished = _look_up(order, ports)
    if finished:
        return Released(finished, finished, [])
    check_host(ports.policy.gateway, ports.gateway.url)
    with _held(order, ports) as (context, replayed):
        before = find(ports.connection, manifest.checksum)
        after = before or intend(context, manifest, bundle_body(ports.store, manifest))
        if after.state in (State.INTENT, State.NOT_TAKEN):
            require_may_send(context, manifest)
            renewed_approvals(context, manifest)
        accepted = "predicted, if the gateway accepts all"
        predicted = replace(after, state=State.ACKNOWLEDGED, why=accepted)
        return Released(before, predicted, replayed)


def _look_up(order: Order, ports: Ports) -> tuple[Manifest, Release | None]:
    manifest = load_manifest(ports.store, order.manifest_sha256, order.stack)
    require_releasable(manifest, order.stack)
    known = find(ports.connection, manifest.checksum)
    return manifest, known if known and known.state.terminal else None


@contextmanager
def _held(order: Order, ports: Ports) -> Iterator[tuple[Context, list[Row]]]:
    """Hold the stack's lock, with the journal level with the object store."""
    breaking = _approved_break(order, ports)
    with hold(
        ports.connection,
        order.stack,
        order.holder,
        "release",
        manifest_sha256=order.manifest_sha256,
        break_token=order.break_token,
        steps=ports.steps,
    ) as lease:
        context = _context(order, ports, lease)
        replayed = catch_up(ports.connection, ports.store, context.journal, lease, ports.steps)
        if breaking:
            _record_break(context, order, breaking)
        yield context, replayed


def _approved_break(order: Order, ports: Ports) -> list[Signed]:
    live = current(ports.connection, order.stack)
    if order.break_token is None or not live or live["token"] != order.break_token:
        return []
    return require_statement(
        ports.connection,
        ports.policy,
        order.statements_dir,
        "lock_break",
        {"lease_token": str(order.break_token)},
        ports.clock.now(),
        order.operator,
    )


def _record_break(context: Context, order: Order, statements: list[Signed]) -> None:
    def commit() -> None:
        with guarded(context, order.manifest_sha256):
            consume(context.connection, statements, order.manifest_sha256)
            said = {
                "broken": str(order.break_token),
                "lease": str(context.lease.token),
                "statements": [signed.sha256 for signed in statements],
            }
            context.journal.record("lease.broken", said)

    context.steps.run("lease.broken", commit)


def _context(order: Order, ports: Ports, lease: Lease) -> Context:
    return Context(
        connection=ports.connection,
        store=ports.store,
        gateway=ports.gateway,
        policy=ports.policy,
        clock=ports.clock,
        steps=ports.steps,
        journal=Journal(ports.connection, ports.store, order.stack, ports.clock, ports.steps),
        lease=lease,
        operator=order.operator,
        operator_key=order.operator_key,
        statements_dir=order.statements_dir,
        nonce=ports.nonce,
        progress=ports.progress,
    )


def _carry_on(
    context: Context, manifest: Manifest, before: Release | None, deadline: datetime
) -> Release:
    body = bundle_body(context.store, manifest)
    if before is None:
        require_gateway(context)
        intent = intend(context, manifest, body)
        return until_receipt(Run(context, manifest, body, deadline, recheck=False), intent)
    if before.state.terminal:  # another run finished it while this one waited for the lock
        return before
    known = _after_a_crash(context, before)
    stored = None if known.state is State.INTENT else stored_receipt(context, known, manifest)
    if stored:
        return record_receipt(context, known, manifest, stored, context.store.url)
    recheck = known.first_sent_at is None
    return until_receipt(Run(context, manifest, body, deadline, recheck), known)


def _after_a_crash(context: Context, release: Release) -> Release:
    if release.state is not State.SENDING:
        return release
    return move(context, release, State.UNKNOWN, "a run ended while it was sending")
