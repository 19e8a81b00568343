# GNU General Public License v3.0+ (see COPYING)
"""The course of a release after its intent: ask, send and watch in turns, at the gateway's pace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..domain.manifest import Manifest
from ..domain.release_state import State
from ..domain.retry import pause
from ..errors import ApgmsError
from ..ports.gateway import Body, GatewayUnavailable
from .release_acknowledgement import watch
from .release_records import Context, Release, find, move, not_finished
from .release_sending import ask, refusal, refused_for_good, send


@dataclass(frozen=True)
class Course:
    """What stays the same during a run."""

    context: Context
    manifest: Manifest
    body: Body
    deadline: datetime
    recheck: bool
    """Nothing was sent yet and the intent is of an earlier run: compare all again."""


@dataclass(frozen=True)
class Turn:
    """A release after one turn, what stands in its way, and when another turn makes sense."""

    release: Release
    trouble: str
    asked_seconds: float | None
    until: datetime


def until_receipt(course: Course, release: Release) -> Release:
    """Carry a release on until its receipt is recorded.

    :raises ApgmsError: ``release.not_finished`` where the time limit or the window ends first;
        ``release.refused`` where trying again cannot help; and those of asking, sending, watching
    """
    context = course.context
    tries = 0
    while not release.state.terminal:
        if release.state is State.PENDING:
            release = watch(context, release, course.manifest, course.deadline)
            continue
        tries += 1
        turn = _turn(course, release)
        release = turn.release
        if release.state is not State.PENDING:
            _wait(course, turn, tries)
    return release


def _turn(course: Course, release: Release) -> Turn:
    try:
        if release.state is not State.INTENT:
            release = ask(course.context, release)
        if release.state is State.PENDING:
            return Turn(release, release.why, None, course.deadline)
        return _send(course, release)
    except GatewayUnavailable as error:
        now = find(course.context.connection, release.manifest_sha256) or release
        return Turn(now, str(error), error.retry_after_seconds, course.deadline)


def _send(course: Course, release: Release) -> Turn:
    try:
        sent = send(course.context, release, course.manifest, course.body, recheck=course.recheck)
    except ApgmsError as error:
        _put_aside(course.context, release, error)
        raise
    if refused_for_good(sent.attempt):
        raise refusal(sent.release, sent.attempt)
    until = min(course.deadline, sent.window_closes_at)
    return Turn(sent.release, sent.release.why, sent.attempt.retry_after_seconds, until)


def _put_aside(context: Context, release: Release, error: ApgmsError) -> None:
    """Let a release that may not be sent now, and of which nothing was sent, not bar the others."""
    if release.state is State.INTENT and error.reason.partition(".")[0] in _FORBIDDING:
        move(context, release, State.NOT_TAKEN, f"nothing was sent: {error}")


_FORBIDDING = ("kill_switch", "ledger", "policy", "release", "window")


def _wait(course: Course, turn: Turn, tries: int) -> None:
    context = course.context
    seconds = pause(tries, turn.asked_seconds, context.clock.now(), turn.until)
    if seconds is None:
        raise not_finished(turn.release, turn.trouble)
    context.progress.say(f"{turn.release.state}, again in {seconds:.0f} s: {turn.trouble}")
    context.lease.wait(context.clock, seconds)
