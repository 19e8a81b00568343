# GNU General Public License v3.0+ (see COPYING)
"""A schedule drawn from a seed: two operators, crashes, faults, clock jumps, a restored database.

Every decision comes from the seed. The runs are real processes that halt at each of their steps;
only the clock is virtual.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.records import find
from tests.faults import invariants
from tests.faults.actor import CUT, DIE, Actor
from tests.faults.backup import Backup
from tests.faults.clock import VirtualClock
from tests.faults.invariants import Violation
from tests.faults.safeguards import SAFEGUARDS
from tests.faults.stack import Stack

TICKS = 120
LONG_RUN = 80
RUNS_AT_ONCE = 2
BLOCKED_SECONDS = 0.5
"""A run that reaches no step in this time waits for a lock that a halted run holds."""
FINAL_RUNS = 6
HARMLESS = (
    "release.not_finished", "release.other_open", "release.claimed", "release.rows_changed",
    "release.refused", "lease.busy", "lease.lost", "journal.store_ahead", "database.unreachable",
    "database.interrupted", "gateway.unreachable", "gateway.busy", "gateway.malformed_answer",
    "gateway.redirected", "gateway.not_issued", "gateway.refused", "receipt.", "window.",
    "approval.", "log.", "statement.",
)  # fmt: skip
"""The reasons for which a run may stop while the world misbehaves."""


@dataclass
class Schedule:
    """One seeded run of everything that can go wrong, on a freshly renewed stack."""

    stack: Stack
    seed: int
    without: str | None = None
    """A safeguard of :data:`..safeguards.SAFEGUARDS` to take away."""
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        take_away = SAFEGUARDS.get(self.without or "", lambda stack: lambda: None)
        self._mutate = take_away(self.stack)
        self._draw = random.Random(self.seed)
        self._actors: list[Actor] = []
        self._backup: Backup | None = None
        self._number = 0
        self._manifests = [self.stack.bundle(f"{name}-{self.seed}") for name in ("one", "two")]
        self._acts = {
            self._advance: 130,
            self._run_on: 6,
            self._start: 14,
            self._kill: 3,
            self._cut: 2,
            self._fault: 6,
            self._calm: 3,
            self._jump: 3,
            self._back_up: 2,
            self._restore: 2,
            self._pass_window: 0.5,
            self._restart_gateway: 0.3,
        }

    def run(self) -> None:
        """Run it.

        :raises Violation: naming the seed and everything that happened
        """
        try:
            for _ in range(TICKS):
                act = self._draw.choices([*self._acts], [*self._acts.values()])[0]
                act()
            self._settle()
        except Violation as violation:
            raise Violation("\n".join([f"seed {self.seed}: {violation}", *self.log])) from None
        finally:
            for actor in self._actors:
                actor.kill()
            self.stack.gateway.plan()

    def _advance(self) -> None:
        if self._actors:
            self._go_on(self._draw.choice(self._actors))

    def _go_on(self, actor: Actor) -> None:
        if actor.at is not None:
            self._say(f"{actor.name} goes on {actor.at}")
            actor.order()
        actor.wait(BLOCKED_SECONDS)
        self._look_at(actor)

    def _run_on(self) -> None:
        """Let one run go on for long, usually to its end."""
        if self._actors:
            actor = self._draw.choice(self._actors)
            self._say(f"{actor.name} runs on from {actor.at}")
            for _ in range(LONG_RUN):
                if actor.at is not None:
                    actor.order()
                if not actor.wait(BLOCKED_SECONDS) or actor.ended:
                    break
            self._look_at(actor)

    def _look_at(self, actor: Actor) -> None:
        if not actor.ended:
            return
        self._actors.remove(actor)
        result = actor.result or {}
        self._say(f"{actor.name} ended: {result}")
        reason = result.get("reason", "")
        invariants.require(
            not reason or reason.startswith(HARMLESS), f"{actor.name} stopped with {result}"
        )
        invariants.require_never_twice(self.stack)

    def _start(self) -> None:
        if len(self._actors) < RUNS_AT_ONCE:
            self._number += 1
            manifest = self._draw.choices(self._manifests, [3, 2])[0]
            name = f"{self._draw.choice(('operator', 'awx'))}-{self._number}"
            which = self._manifests.index(manifest) + 1
            self._say(f"{name} starts on manifest {which}")
            actor = Actor(self.stack, manifest, name, self._mutate)
            self._actors.append(actor)
            self._go_on(actor)

    def _kill(self) -> None:
        if self._actors:
            actor = self._draw.choice(self._actors)
            self._say(f"{actor.name} is killed {actor.at}")
            actor.order(DIE)
            self._look_at(actor)

    def _cut(self) -> None:
        halted = [actor for actor in self._actors if actor.at is not None]
        if halted:
            actor = self._draw.choice(halted)
            self._say(f"the session of {actor.name} is cut off {actor.at}")
            actor.order(CUT)
            actor.wait(BLOCKED_SECONDS)
            self._look_at(actor)

    def _fault(self) -> None:
        faults = self._draw.choice(_FAULTS)
        if faults is not None:
            self._say(f"the gateway misbehaves: {faults}")
            self.stack.gateway.plan(*faults)
            return
        seed, rate = self._draw.randrange(1 << 30), self._draw.choice((0.2, 0.5))
        self._say(f"the gateway misbehaves, rate {rate}, seed {seed}")
        self.stack.gateway.plan_seed(seed, rate)

    def _calm(self) -> None:
        self._say("the gateway behaves")
        self.stack.gateway.plan()

    def _jump(self) -> None:
        seconds = self._draw.choice((-300, -30, 30, 200, 1200))
        self._say(f"the clock jumps by {seconds} s")
        self._move_clock(timedelta(seconds=seconds))

    def _pass_window(self) -> None:
        self._say("the window closes")
        self._move_clock(timedelta(hours=24))

    def _back_up(self) -> None:
        if all(actor.at is not None for actor in self._actors):
            self._say("the database is backed up")
            self._backup = Backup(self.stack)

    def _restore(self) -> None:
        if self._backup:
            self._say("the database is restored from the backup")
            self._backup.restore()

    def _restart_gateway(self) -> None:
        self._say("the gateway is killed and started")
        self.stack.gateway.kill()
        self.stack.gateway.start()

    def _move_clock(self, by: timedelta) -> None:
        with self.stack.connection() as connection:
            VirtualClock(connection).move(by)

    def _settle(self) -> None:
        """End all faults; then somebody runs both releases until one of them is through."""
        for actor in [*self._actors]:
            actor.kill()
            self._actors.remove(actor)
        self.stack.gateway.plan()
        self._say("all faults end")
        self._renew_approvals()
        winner = next(filter(self._finish, self._in_order()), None)
        invariants.require(winner is not None, "no release came through")
        assert winner is not None
        invariants.require_accepted_once(self.stack, winner)
        again = Actor(self.stack, winner, "afterwards", self._mutate).run()
        invariants.require(
            again == {"state": "ACKNOWLEDGED", "changed": False}, f"a further run: {again}"
        )
        invariants.require_accepted_once(self.stack, winner)

    def _in_order(self) -> list[Manifest]:
        """Return the manifests, first the one that has an intent."""
        with self.stack.connection() as connection:
            return sorted(
                self._manifests, key=lambda manifest: find(connection, manifest.checksum) is None
            )

    def _finish(self, manifest: Manifest) -> bool:
        for number in range(FINAL_RUNS):
            result = Actor(self.stack, manifest, f"final-{number}", self._mutate).run()
            self._say(f"final run {number} of {self._manifests.index(manifest) + 1}: {result}")
            if result.get("state") == "ACKNOWLEDGED":
                return True
        return False

    def _renew_approvals(self) -> None:
        """Sign approvals and an override of the window that hold at the present, virtual time."""
        with self.stack.connection() as connection:
            now = self.stack.clock(connection).now()
        for manifest in self._manifests:
            self.stack.approve(manifest, now)
        window: dict[str, Any] = {"release_window": self._manifests[0].release_window}
        self.stack.sign("override", "auditor", window, now)

    def _say(self, line: str) -> None:
        self.log.append(line)


def _fault(point: str, fault: str, times: int = 1, **more: Any) -> dict[str, Any]:
    return {"point": point, "fault": fault, "times": times, **more}


_FAULTS: list[list[dict[str, Any]] | None] = [
    None,
    [_fault("submit", "lose_response"), _fault("lookup", "not_found", 50)],
    [_fault("submit", "html"), _fault("lookup", "not_found", 50)],
    [_fault("submit", "redirect"), _fault("lookup", "reset", 2)],
    [_fault("submit", "reset_mid_upload", 2), _fault("lookup", "nothing")],
    [_fault("submit", "already_running"), _fault("status", "not_found")],
    [_fault("submit", "retry_later", 3, taken=True, retry_after="huge")],
    [_fault("status", "accepted_early"), _fault("receipt", "foreign_receipt")],
    [_fault("receipt", "replayed_receipt"), _fault("receipt", "altered_receipt")],
]
"""What the gateway does to the next requests; None: whatever its own seed draws."""
