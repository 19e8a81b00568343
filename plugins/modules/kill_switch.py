#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: kill_switch
short_description: Stop all sending of a stack, and allow it again
version_added: 0.1.0
description:
  - While the kill switch is on, nothing is sent to the gateway. Asking the gateway and storing
    receipts stay possible.
  - Each turn is a row in the stack's database that says who, when and why. The first reason stands
    until the switch is turned off; turning it on again changes nothing.
  - It needs the database alone, not the object store and not the policy, so that it works when
    little else does.
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
attributes:
  check_mode:
    support: full
    description: Predicts whether the switch would be turned; nothing is written.
  diff_mode:
    support: full
    description: Shows the position of the switch before and after.
options:
  state:
    description: The position of the switch.
    type: str
    choices: ["on", "off"]
    required: true
  reason:
    description: Why it is turned, also when it is turned off.
    type: str
    required: true
  operator:
    description: Who turns it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Nothing is sent until the bank has answered
  apgms.release.kill_switch:
    stack: prod
    database_url: postgresql://release@db.example/apgms
    state: "on"
    reason: the bank reports duplicate credits
    operator: operator
"""

RETURN = r"""
kill_switch:
  description: The position of the switch, and its last turn.
  returned: success
  type: dict
  contains:
    state:
      description: V(on) or V(off).
      type: str
    reason:
      description: Why it was turned; null where it never was.
      type: str
    operator:
      description: Who turned it.
      type: str
    at:
      description: When, UTC, by the database's clock; null where it never was.
      type: str
      sample: "2026-11-25T07:00:00.000Z"
"""


from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    open_database,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import (
    position,
    turn,
)


def act(call: Call) -> Outcome:
    options = call.options
    with open_database(call, "kill switch") as connection:
        migrate(connection)
        before = position(connection, options["stack"])
        after = turn(
            connection,
            options["stack"],
            engaged=options["state"] == "on",
            reason=options["reason"],
            actor=options["operator"],
        )
    return Outcome(
        changed=before != after,
        result={"kill_switch": after.as_result()},
        before=before.as_result(),
        after=after.as_result(),
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            "state": {"type": "str", "choices": ["on", "off"], "required": True},
            "reason": {"type": "str", "required": True},
            "operator": {"type": "str", "required": True},
        },
    )


if __name__ == "__main__":
    main()
