# GNU General Public License v3.0+ (see COPYING)
"""The kill switch of a stack: while it is on, nothing is sent, seeded, reopened or restored.

A rollback, asking the gateway and storing receipts stay possible. It stands in the database, so
that it stops every operator and controller at once; each turn is a row that says who, when and why.
It takes part in no journal: an emergency stop must work with the object store down. APGMS's own
``PROTO_KILL_SWITCH`` in the environment stops the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ...domain.approval.flags import kill_switch_engaged
from ...errors import ApgmsError
from ...ports.clock import iso_utc

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Position:
    """The last turn of a stack's kill switch; times in UTC."""

    engaged: bool
    reason: str | None = None
    actor: str | None = None
    at: datetime | None = None

    def as_result(self) -> dict[str, str | None]:
        """Return it as JSON values."""
        return {
            "state": "on" if self.engaged else "off",
            "reason": self.reason,
            "operator": self.actor,
            "at": iso_utc(self.at) if self.at else None,
        }


def position(connection: Connection, stack: str) -> Position:
    """Return the position of the kill switch; a switch that was never turned is off."""
    found = connection.execute("SELECT to_regclass('apgms_release.kill_switch')").fetchone()
    if found is None or found[0] is None:  # the first seed comes before everything else
        return Position(engaged=False)
    row = connection.execute(
        "SELECT engaged, reason, actor, at FROM apgms_release.kill_switch"
        " WHERE stack = %s ORDER BY seq DESC LIMIT 1",
        [stack],
    ).fetchone()
    return Position(*row) if row else Position(engaged=False)


def turn(connection: Connection, stack: str, *, engaged: bool, reason: str, actor: str) -> Position:
    """Turn the switch and return its position; where it stands so already, nothing is written.

    :raises ApgmsError: ``kill_switch.unstated``
    """
    for name, value in (("reason", reason), ("actor", actor)):
        if not value.strip():
            raise _unstated(name)
    with connection.transaction():
        connection.execute("LOCK TABLE apgms_release.kill_switch IN SHARE ROW EXCLUSIVE MODE")
        if position(connection, stack).engaged != engaged:
            connection.execute(
                "INSERT INTO apgms_release.kill_switch (stack, engaged, reason, actor)"
                " VALUES (%s, %s, %s, %s)",
                [stack, engaged, reason, actor],
            )
        return position(connection, stack)


def require_off(
    connection: Connection, stack: str, environment: Mapping[str, str] | None = None
) -> None:
    """Refuse to act while the kill switch is on, in the database or in this process's environment.

    :raises ApgmsError: ``kill_switch.on``
    """
    if environment is None:
        environment = os.environ
    now = position(connection, stack)
    if now.engaged and now.at:
        raise _on(
            f"the kill switch of {stack}",
            f"{now.actor} set it at {iso_utc(now.at)}: {now.reason}",
            f"STACK={stack} ansible-playbook -i inventories/{stack} playbooks/kill_switch.yml"
            " -e kill_switch_state=off -e kill_switch_reason=WHY",
        )
    if kill_switch_engaged(environment.get("PROTO_KILL_SWITCH")):
        raise _on(
            "PROTO_KILL_SWITCH in the environment, .env.STACK or the extra variables",
            environment.get("PROTO_KILL_SWITCH_REASON") or "it is set, without a reason",
            "take PROTO_KILL_SWITCH away there",
        )


def _on(where: str, why: str, undo: str) -> ApgmsError:
    return ApgmsError(
        "kill_switch.on",
        "The kill switch is on: nothing is sent, seeded, reopened or restored",
        where=where,
        why=why,
        mend=f"when the cause is dealt with: {undo}",
    )


def _unstated(name: str) -> ApgmsError:
    return ApgmsError(
        "kill_switch.unstated",
        "The kill switch is turned by a named person for a stated reason",
        where=name,
        why="it is empty",
        mend=f"give {name}",
    )
