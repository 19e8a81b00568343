# GNU General Public License v3.0+ (see COPYING)
"""The course of a release after its intent: ask, send and watch in turns, at the gateway's pace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...domain.release.manifest import Manifest
from ...domain.release.release_state import State
from ...domain.release.retry import pause, retried
from ...errors import ApgmsError
from ...ports.gateway import Attempt, Body, Disposition, GatewayUnavailable
from .acknowledgement import watch
from .records import Context, Release, find, move, not_finished
from .sending import Sent, ask, refusal, send


@dataclass(frozen=True)
class Run:
    """What stays the same during a run."""

    context: Context
    manifest: Manifest
    body: Body
    deadline: datetime
    recheck: bool
    """Nothing was sent yet and the intent is of an earlier run: compare all again."""


def until_receipt(run: Run, release: Release) -> Release:
    """Carry a release on until its receipt is recorded.

    :raises ApgmsError: ``release.not_finished`` where the time limit or the window ends first;
        ``release.refused`` where trying again cannot help; and those of asking, sending, watching
    """
    course = _Course(run, release)
    while not course.release.state.terminal:
        course.turn()
    return course.release


class _Course:
    def __init__(self, run: Run, release: Release) -> None:
        self.release = release
        self._run = run
        self._tries = 0
        self._until = run.deadline
        self._may_send = True
        self._trouble = release.why

    def turn(self) -> None:
        """Watch a job, or else ask for one and send where there is none; then wait."""
        run = self._run
        if self.release.state is State.PENDING:
            self.release = watch(run.context, self.release, run.manifest, run.deadline)
            return
        self._tries += 1
        asked_seconds = None
        try:
            asked_seconds = self._ask_and_send()
        except GatewayUnavailable as error:
            self.release = (
                find(run.context.connection, self.release.manifest_sha256) or self.release
            )
            self._trouble, asked_seconds = str(error), error.retry_after_seconds
        if self.release.state is not State.PENDING:
            self._wait(asked_seconds)

    def _ask_and_send(self) -> float | None:
        if self.release.state is not State.INTENT:
            self.release = ask(self._run.context, self.release)
        if self.release.state is State.PENDING:
            return None
        if not self._may_send:
            self._stop_if_nothing_was_taken()
            return None
        attempt = self._send()
        self._may_send = _may_be_repeated(attempt)
        self._trouble = self.release.why
        return attempt.retry_after_seconds

    def _send(self) -> Attempt:
        run = self._run
        try:
            sent: Sent = send(
                run.context, self.release, run.manifest, run.body, recheck=run.recheck
            )
        except ApgmsError as error:
            _put_aside(run.context, self.release, error)
            raise
        self.release = sent.release
        self._until = min(run.deadline, sent.window_closes_at)
        if sent.attempt.disposition is Disposition.REFUSED:
            raise refusal(sent.release, sent.attempt)
        return sent.attempt

    def _stop_if_nothing_was_taken(self) -> None:
        if self.release.state is State.NOT_TAKEN:
            raise not_finished(self.release, f"{self._trouble}; {self.release.why}")

    def _wait(self, asked_seconds: float | None) -> None:
        context = self._run.context
        seconds = pause(self._tries, asked_seconds, context.clock.now(), self._until)
        if seconds is None:
            raise not_finished(self.release, self._trouble)
        context.progress.say(f"{self.release.state}, again in {seconds:.0f} s: {self._trouble}")
        context.lease.wait(context.clock, seconds)


def _may_be_repeated(attempt: Attempt) -> bool:
    """Return whether the same bytes may be sent again in this run: faults of network and moment."""
    return attempt.status is None or retried(attempt.status)


def _put_aside(context: Context, release: Release, error: ApgmsError) -> None:
    """Let a release that may not be sent now, and of which nothing was sent, not bar the others."""
    if release.state is State.INTENT and error.reason.partition(".")[0] in _FORBIDDING:
        move(context, release, State.NOT_TAKEN, f"nothing was sent: {error}")


_FORBIDDING = ("approval", "kill_switch", "log", "policy", "release", "window")
