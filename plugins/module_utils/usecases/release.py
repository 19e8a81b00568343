# GNU General Public License v3.0+ (see COPYING)
"""Release a manifest: exactly once, and from wherever an earlier run stopped.

``docs/exactly-once.md`` describes the states, the steps and what follows from a crash at each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..domain.journal_chain import Row
from ..domain.manifest import Manifest
from ..domain.policy import Policy
from ..domain.release_state import State
from ..ports.clock import Clock
from ..ports.gateway import Gateway, check_host
from ..ports.object_store import ObjectStore
from .journal import Journal
from .journal_replay import catch_up
from .lease import Lease, hold
from .manifests import load_manifest
from .progress import Progress
from .release_acknowledgement import record_receipt, stored_receipt
from .release_course import Run, until_receipt
from .release_gates import require_gateway, require_may_send, require_releasable
from .release_intent import bundle_body, intend
from .release_records import Context, Release, find, move
from .steps import Steps

if TYPE_CHECKING:
    from ..ports.database import Connection


@dataclass(frozen=True)
class Order:
    """What is to be released, by whom, and how long this run may take.

    ``holder`` is how other runs will know this one; ``break_token`` the token of a live lease that
    a verified ``lock_break`` statement names.
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
        ``approval.*``, ``ledger.*``, ``manifest.*``
    """
    manifest = load_manifest(ports.store, order.manifest_sha256, order.stack)
    require_releasable(manifest, order.stack)
    finished = _finished(ports.connection, manifest)
    if finished:
        return Released(finished, finished, [])
    with _hold(order, ports) as lease:
        context = _context(order, ports, lease)
        replayed = catch_up(ports.connection, ports.store, context.journal, lease, ports.steps)
        before = find(ports.connection, manifest.checksum)
        after = _carry_on(context, manifest, before, ports.clock.now() + order.time_limit)
    return Released(before, after, replayed)


def predict(order: Order, ports: Ports) -> Released:
    """Return what :func:`release` would do if the gateway accepts all, without asking it anything.

    Runs inside a rehearsal, on an overlay store.

    :raises ApgmsError: as :func:`release`, as far as this side alone decides
    """
    manifest = load_manifest(ports.store, order.manifest_sha256, order.stack)
    require_releasable(manifest, order.stack)
    finished = _finished(ports.connection, manifest)
    if finished:
        return Released(finished, finished, [])
    check_host(ports.policy.gateway, ports.gateway.url)
    with _hold(order, ports) as lease:
        context = _context(order, ports, lease)
        replayed = catch_up(ports.connection, ports.store, context.journal, lease, ports.steps)
        before = find(ports.connection, manifest.checksum)
        after = before or intend(context, manifest, bundle_body(ports.store, manifest))
        if after.state in (State.INTENT, State.NOT_TAKEN):
            require_may_send(context, manifest)
    return Released(before, _accepted(after), replayed)


def _finished(connection: Connection, manifest: Manifest) -> Release | None:
    known = find(connection, manifest.checksum)
    return known if known and known.state.terminal else None


def _hold(order: Order, ports: Ports) -> AbstractContextManager[Lease]:
    return hold(
        ports.connection,
        order.stack,
        order.holder,
        "release",
        manifest_sha256=order.manifest_sha256,
        break_token=order.break_token,
        steps=ports.steps,
    )


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


def _accepted(release: Release) -> Release:
    return replace(release, state=State.ACKNOWLEDGED, why="predicted: the gateway accepts all")


def _carry_on(
    context: Context, manifest: Manifest, before: Release | None, deadline: datetime
) -> Release:
    body = bundle_body(context.store, manifest)
    if before is None:
        require_gateway(context)
        intent = intend(context, manifest, body)
        return until_receipt(Run(context, manifest, body, deadline, recheck=False), intent)
    known = _after_a_crash(context, before)
    stored = stored_receipt(context, known, manifest)
    if stored:
        return record_receipt(context, known, manifest, stored, context.store.url)
    recheck = known.first_sent_at is None
    return until_receipt(Run(context, manifest, body, deadline, recheck), known)


def _after_a_crash(context: Context, release: Release) -> Release:
    if release.state is not State.SENDING:
        return release
    return move(context, release, State.UNKNOWN, "a run ended while it was sending")
