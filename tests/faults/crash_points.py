# GNU General Public License v3.0+ (see COPYING)
"""Every crash point: the points come from a run itself, so that a new step cannot be left out."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from tests.faults import invariants
from tests.faults.actor import CUT, DIE, GO, Actor, Point
from tests.faults.stack import Stack

BLOWS = ("kill the run", "kill the gateway", "cut the database session")


def points(stack: Stack, manifest: Manifest) -> list[Point]:
    """Return the points of an undisturbed run, in order."""
    actor = Actor(stack, manifest, "undisturbed")
    found: list[Point] = []
    while actor.wait() and not actor.ended:
        assert actor.at is not None
        found.append(actor.at)
        actor.order()
    assert actor.result == {"state": "ACKNOWLEDGED", "changed": True}, actor.result
    return found


def strike(stack: Stack, manifest: Manifest, number: int, blow: str) -> None:
    """Strike a run at its point ``number``, run it again, and check what must then hold."""
    actor = Actor(stack, manifest, "struck")
    for _ in range(number):
        actor.wait()
        actor.order()
    actor.wait()
    if not actor.ended:
        _BLOWS[blow](stack, actor)
    assert Actor(stack, manifest, "again").run()["state"] == "ACKNOWLEDGED"
    assert Actor(stack, manifest, "once more").run() == {"state": "ACKNOWLEDGED", "changed": False}
    invariants.require_accepted_once(stack, manifest)


def _kill_run(_stack: Stack, actor: Actor) -> None:
    actor.order(DIE)


def _kill_gateway(stack: Stack, actor: Actor) -> None:
    stack.gateway.kill()
    stack.gateway.start()
    actor.order(GO)
    actor.run()


def _cut_session(_stack: Stack, actor: Actor) -> None:
    actor.order(CUT)
    actor.run()


_BLOWS: dict[str, Callable[[Stack, Actor], None]] = dict(
    zip(BLOWS, (_kill_run, _kill_gateway, _cut_session), strict=True)
)
