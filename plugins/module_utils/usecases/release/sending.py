# GNU General Public License v3.0+ (see COPYING)
"""Attempts to send, and asking what became of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import IO, Any, cast

from ...domain.release.manifest import Manifest
from ...domain.release.release_state import State, after_refusal
from ...errors import ApgmsError
from ...ports.clock import iso_utc
from ...ports.gateway import (
    Attempt,
    Body,
    Disposition,
    Gateway,
    GatewayUnavailable,
    Identity,
    Status,
)
from .gates import require_gateway, require_ledger, require_may_send
from .intent import require_unchanged
from .records import Context, Release, move
from .renewal import renewed_approvals

LONGEST_ATTEMPT = timedelta(hours=1)
"""Nothing is resent so late that the gateway might have forgotten the key when it arrives."""


@dataclass(frozen=True)
class Sent:
    """An attempt: the release after it, and how long the gateway asks to wait, in seconds."""

    release: Release
    attempt: Attempt
    window_closes_at: datetime


def ask(context: Context, release: Release) -> Release:
    """Ask the gateway what it has of a release.

    :return: PENDING where the gateway has it; NOT_TAKEN where its contract makes it certain that it
        has not; else unchanged
    :raises GatewayUnavailable: where there is no reliable answer
    :raises ApgmsError: ``release.foreign_submission``, and those of :func:`require_gateway`
    """
    identity = require_gateway(context)
    asked_at = context.clock.now()
    status = _found(context, release)
    if status is not None:
        why = f"the gateway has it as {status.job_id}"
        return move(context, release, State.PENDING, why, job_id=status.job_id)
    if release.state is State.UNKNOWN and _certain(release, identity, asked_at):
        why = "the gateway has nothing of it, and its contract makes that certain"
        return move(context, release, State.NOT_TAKEN, why)
    return release


def _found(context: Context, release: Release) -> Status | None:
    """Return our submission as the gateway has it; one that it named before is never forgotten."""
    gateway = context.gateway
    status = gateway.lookup(manifest_sha256=release.manifest_sha256)
    if status is None:
        status = gateway.lookup(idempotency_key=release.idempotency_key)
    if status is None and release.job_id is not None:
        status = _named(gateway, release.job_id)
    if status is not None:
        _require_ours(release, status)
    return status


def _named(gateway: Gateway, job_id: str) -> Status | None:
    try:
        return gateway.status(job_id)
    except GatewayUnavailable as error:
        if error.reason != "gateway.unknown_job":
            raise
        return None


def _certain(release: Release, identity: Identity, asked_at: datetime) -> bool:
    """Return whether finding nothing at ``asked_at`` proves that nothing was taken."""
    settled = release.changed_at + timedelta(seconds=identity.lookup_settle_seconds)
    return (
        identity.lookup_is_authoritative
        and asked_at >= settled
        and not _forgotten(release, identity, asked_at)
    )


def send(
    context: Context, release: Release, manifest: Manifest, body: Body, *, recheck: bool
) -> Sent:
    """Send once, if everything allows it now, and record what is known afterwards.

    :param recheck: compare the rows and the ledger again: nothing of it was sent yet, and the
        intent is of an earlier run
    :raises GatewayUnavailable: where the gateway does not say who it is; nothing was sent
    :raises ApgmsError: ``release.key_forgotten``, ``release.other_bytes``,
        ``release.other_endpoint`` and those of :func:`require_may_send` and, where the approvals on
        record have expired, of :func:`.gates.require_approved`
    """
    _require_same(context, release, body)
    _require_remembered(context, release, require_gateway(context))
    sending, closes_at = _begin(context, release, manifest, recheck)
    attempt = context.steps.run("release.send", lambda: _submit(context, release, body, closes_at))
    after = _record(context, release, sending, attempt)
    return Sent(after, attempt, closes_at)


def _require_remembered(context: Context, release: Release, identity: Identity) -> None:
    if not _forgotten(release, identity, context.clock.now()):
        return
    raise ApgmsError(
        "release.key_forgotten",
        "This release is not sent again: the gateway may have forgotten its key",
        where=f"release {release.manifest_sha256}",
        why=f"it was first sent at {release.first_sent_at and iso_utc(release.first_sent_at)}, and"
        f" the gateway remembers a key for {identity.key_retention_seconds} s",
        mend="ask the authority for the receipt of this manifest checksum; every further run asks"
        " the gateway for it",
    )


def _forgotten(release: Release, identity: Identity, now: datetime) -> bool:
    """Return whether the gateway may take a resend for something new by the time it arrives."""
    if release.first_sent_at is None:
        return False
    remembered = timedelta(seconds=identity.key_retention_seconds)
    return now >= release.first_sent_at + remembered - min(LONGEST_ATTEMPT, remembered / 2)


def _begin(
    context: Context, release: Release, manifest: Manifest, recheck: bool
) -> tuple[Release, datetime]:
    now = closes_at = context.clock.now()

    def allowed() -> dict[str, Any]:
        nonlocal closes_at
        closes_at = require_may_send(context, manifest).closes_at
        renewed = renewed_approvals(context, manifest)
        if recheck:
            require_unchanged(context.connection, context.store, manifest)
            require_ledger(context, manifest)
        said = {"attempt": release.attempts + 1, "lease": context.lease.token}
        return said | ({"statements": renewed} if renewed else {})

    sending = move(
        context,
        release,
        State.SENDING,
        f"attempt {release.attempts + 1}",
        allowed,
        attempts=release.attempts + 1,
        first_sent_at=release.first_sent_at or now,
        last_sent_at=now,
    )
    return sending, closes_at


def _submit(context: Context, release: Release, body: Body, closes_at: datetime) -> Attempt:
    # a run that was stopped until here may have lost the lock, or missed the window
    context.lease.renew()
    _require_window(context, closes_at)
    return context.gateway.submit(release.idempotency_key, _guarded(context, body, closes_at))


def _record(context: Context, before: Release, sending: Release, attempt: Attempt) -> Release:
    why = attempt.detail or attempt.disposition.value
    evidence = partial(_evidence, attempt)
    kind = attempt.disposition
    if kind is Disposition.TAKEN:
        return move(context, sending, State.PENDING, why, evidence, job_id=attempt.job_id)
    if kind is Disposition.NOT_SENT:
        unsent = {name: getattr(before, name) for name in ("first_sent_at", "last_sent_at")}
        return move(context, sending, before.state, why, evidence, "release.not_sent", **unsent)
    if kind is Disposition.REFUSED:
        return move(context, sending, after_refusal(before.state), why, evidence)
    return move(context, sending, State.UNKNOWN, why, evidence)


def _evidence(attempt: Attempt) -> dict[str, Any]:
    return {
        "disposition": attempt.disposition,
        "status": attempt.status,
        "code": attempt.code,
        "job_id": attempt.job_id,
    }


def refusal(release: Release, attempt: Attempt) -> ApgmsError:
    """Return the failure of a release that the gateway does not take."""
    return ApgmsError(
        "release.refused",
        "The gateway does not take this release",
        where=f"{release.endpoint}, release {release.manifest_sha256}",
        why=f"HTTP {attempt.status} {attempt.code}: {attempt.detail}",
        mend="mend what it names and run the same command again; the claims on its periods stay"
        " until a verified rejection",
        state=release.state,
        code=attempt.code,
    )


def _require_ours(release: Release, status: Status) -> None:
    ours = (release.manifest_sha256, release.idempotency_key, release.body_sha256)
    found = (status.manifest_sha256, status.idempotency_key, status.body_sha256)
    if found != ours:
        raise ApgmsError(
            "release.foreign_submission",
            "The gateway has this release from somebody else, or with other bytes",
            where=f"{release.endpoint}, {status.job_id}",
            why=f"it has manifest {found[0]}, key {found[1]}, body {found[2]};"
            f" ours are {ours[0]}, {ours[1]}, {ours[2]}",
            mend="send nothing; find out with the authority who submitted it",
            job_id=status.job_id,
        )


def _require_same(context: Context, release: Release, body: Body) -> None:
    if body.sha256 != release.body_sha256:
        raise ApgmsError(
            "release.other_bytes",
            "The bundle is no longer what the intent fixed",
            where=f"{context.store.url}/releases/{release.manifest_sha256}",
            why=f"the body's SHA-256 is {body.sha256}, the intent says {release.body_sha256}",
            mend="restore the bundle's objects; a release is only ever sent with the same bytes",
        )
    if context.gateway.url != release.endpoint:
        raise ApgmsError(
            "release.other_endpoint",
            "The gateway address is not the one that the intent fixed",
            where="apgms_gateway_url",
            why=f"it is {context.gateway.url}, the intent says {release.endpoint}",
            mend=f"set apgms_gateway_url to {release.endpoint}",
        )


def _guarded(context: Context, body: Body, closes_at: datetime) -> Body:
    """Return the body with a check of the lock and the window, and with progress, as it is read."""
    context.progress.begin()
    counted = _Count()

    def read_on(size: int) -> None:
        counted.total += size
        context.progress.done("Sending", counted.total, body.length, "bytes")
        if context.lease.keep():
            _require_window(context, closes_at)

    parts = tuple(partial(_watched, part, read_on) for part in body.parts)
    return replace(body, parts=parts)


def _require_window(context: Context, closes_at: datetime) -> None:
    if context.clock.now() >= closes_at:
        raise ApgmsError(
            "window.over",
            "The release window closed while the release was being sent",
            where="release.send",
            why=f"it closed at {iso_utc(closes_at)}; sending was broken off",
            mend="run the same command again: it asks the gateway what has arrived",
        )


@dataclass
class _Count:
    total: int = 0


def _watched(part: Callable[[], IO[bytes]], read_on: Callable[[int], None]) -> IO[bytes]:
    return cast("IO[bytes]", _Watched(part(), read_on))


class _Watched(io.RawIOBase):
    def __init__(self, stream: IO[bytes], read_on: Callable[[int], None]) -> None:
        self._stream = stream
        self._read_on = read_on

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read_on(len(data))
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
