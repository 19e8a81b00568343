#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: release_window
short_description: Require an open release window, or reopen one that a rollback shut
version_added: 0.1.0
description:
  - With O(state=open) the task fails unless the release window is open now. Windows come from the
    calendar in the signed policy; a signed statement of kind C(override) opens one outside the
    calendar. The clock is the database's.
  - A rollback shuts the window. With O(state=reopened) a verified dry run of a later corrective
    release ends that, and nothing else does, an override included.
  - M(apgms.release.gateway_release) checks the window again, under the stack's lock, before every
    attempt to send.
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.policy
attributes:
  check_mode:
    support: full
    description: Predicts, and refuses as the real run would; nothing is written.
  diff_mode:
    support: full
    description: Shows the incidents that keep the window shut, before and after.
options:
  state:
    description: Whether to require an open window, or to reopen it.
    type: str
    choices: [open, reopened]
    default: open
  statements:
    description: Folder of the signed statements.
    type: path
    required: true
  operator:
    description:
      - The operator's principal, whose own signatures do not count.
      - Required for O(state=reopened).
    type: str
  release_window:
    description:
      - The window's opening time in the policy's time zone, 12 digits, YYYYMMDDHHMM.
      - It names the window that O(state=open) requires.
    type: str
  source_revision:
    description:
      - The revision of the corrective release. Its prototype run reopens the window, once audit has
        approved that run.
      - Required for O(state=reopened).
    type: str
  rehearsal:
    description:
      - The manifest checksum of a sanctioned rehearsal of the corrective release, which reopens the
        window in place of a prototype run.
    type: str
  object_store:
    description: Address of the object store. Required for O(state=reopened).
    type: str
  object_store_endpoint:
    description: Endpoint of an S3 server other than AWS.
    type: str
"""

EXAMPLES = r"""
- name: The release window is open
  apgms.release.release_window:
    stack: prod
    database_url: postgresql://release@db.example/apgms
    policy: inventories/prod/policy.json
    statements: inventories/prod/statements
    release_window: "202611251800"

- name: The corrected release has been through the prototype stack
  apgms.release.release_window:
    state: reopened
    stack: prod
    database_url: postgresql://release@db.example/apgms
    object_store: s3://apgms-prod-release
    policy: inventories/prod/policy.json
    statements: inventories/prod/statements
    source_revision: 6f1c0e6a9d0b4c7f8e5a3d2b1c0f9e8d7c6b5a49
    operator: olivia
"""

RETURN = r"""
window:
  description: The open window.
  returned: with O(state=open)
  type: dict
  contains:
    id:
      description: The window's id.
      type: str
      sample: "202611251800"
    name:
      description: The calendar entry, or the override, that it comes from.
      type: str
    opens_at:
      description: When it opened, UTC.
      type: str
      sample: "2026-11-25T07:00:00.000Z"
    closes_at:
      description: When it ends, UTC. Nothing is sent from then on.
      type: str
reopened:
  description: The incidents whose closure was ended.
  returned: with O(state=reopened)
  type: list
  elements: str
dry_run:
  description: The dry run that reopened the window.
  returned: where a window was reopened
  type: dict
  contains:
    purpose:
      description: V(prototype) or V(rehearsal).
      type: str
    manifest_sha256:
      description: Its manifest checksum.
      type: str
    source_revision:
      description: The revision it ran.
      type: str
    made_at:
      description: When the prototype was approved or the rehearsal built, UTC.
      type: str
reason:
  description: The rule that refused, such as V(window.closed) or V(window.over).
  returned: failure
  type: str
"""

from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import (
    DatabaseClock,
    iso_utc,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.reopening import (
    Order,
    carry_out,
    predict,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.windows import (
    require_open,
)


def act(call: Call) -> Outcome:
    options = call.options
    database = connect(options["database_url"], options["database_password"], purpose="window")
    with database as connection:
        return (require if options["state"] == "open" else reopen)(connection, call)


def require(connection: Any, call: Call) -> Outcome:
    options = call.options
    with rehearsal(connection):
        window = require_open(
            connection,
            load_policy(connection, options["policy"], options["stack"]),
            options["stack"],
            DatabaseClock(connection).now(),
            options["release_window"],
            options["statements"],
            options["operator"],
        )
    return Outcome(
        changed=False,
        result={
            "window": {
                "id": window.id,
                "name": window.name,
                "opens_at": iso_utc(window.opens_at),
                "closes_at": iso_utc(window.closes_at),
            }
        },
    )


def reopen(connection: Any, call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    order = Order(
        stack=options["stack"],
        policy_path=options["policy"],
        statements_dir=options["statements"],
        operator=options["operator"],
        source_revision=options["source_revision"],
        rehearsal=options["rehearsal"],
    )
    reopening = (predict if call.check_mode else carry_out)(connection, store, order)
    result = reopening.result()
    return Outcome(
        changed=bool(reopening.ended),
        result=result,
        before={"shut_by": result["reopened"]},
        after={"shut_by": []},
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **POLICY_SPEC,
            "state": {"type": "str", "choices": ["open", "reopened"], "default": "open"},
            "statements": {"type": "path", "required": True},
            "operator": {"type": "str"},
            "release_window": {"type": "str"},
            "source_revision": {"type": "str"},
            "rehearsal": {"type": "str"},
            "object_store": {"type": "str"},
            "object_store_endpoint": {"type": "str"},
        },
        required_if=[("state", "reopened", ["object_store", "source_revision", "operator"])],
    )


if __name__ == "__main__":
    main()
