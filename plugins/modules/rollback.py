#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Take a stack back to a release, by manifest checksum
version_added: 0.1.0
description:
  - Takes the ledger, the periods and the tokens of a stack back to what the manifest of an earlier
    release says. No row of the ledger is changed or deleted; mirrored rows are appended, each
    original row is mirrored at most once.
  - What the authority has acknowledged since, or may have, never becomes releasable again. It is
    listed as an amendment obligation.
  - In check mode the module returns the plan and its digest. The real run takes the digest in
    O(plan_sha256) and does exactly that plan, or refuses where it is not the current one any more.
  - All of it is one transaction under the stack's lock, with the shut window, the incident, a row
    of C(audit_log) and a row of the journal. Run again after an interruption, the same command
    finishes it; run again afterwards, it changes nothing.
  - The run signs the operator's intent with O(operator_key). The policy may ask for further signed
    statements of kind C(rollback). No open window is needed.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description:
      - The plan is made by the same code and tried in a transaction that is rolled back, so that
        what the deployment's constraints refuse shows here too. Nothing is written anywhere and
        nothing is signed.
  diff_mode:
    support: full
    description:
      - Shows each entity, tax and period with its balance today and at the target, the rows to
        mirror, and every column of a period or token that changes, up to O(shown).
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
options:
  target:
    description:
      - Manifest checksum of the release to go back to, or an unambiguous beginning of it of at
        least 12 digits.
    type: str
    required: true
  plan_sha256:
    description:
      - Digest of the plan that check mode returned.
      - Required outside check mode.
    type: str
  reason:
    description:
      - Why the stack is rolled back, for the incident and for whoever finds the window shut.
    type: str
    default: ""
  operator:
    description: Principal of the operator, as the policy names him.
    type: str
    required: true
  operator_key:
    description:
      - Path of the operator's SSH key, or of a public key whose private half is in the agent.
      - Required outside check mode.
    type: path
  statements:
    description: Folder of the signed statements.
    type: path
    required: true
  log_key:
    description: The key that signs the ledger's checkpoints, an Ed25519 key in a PEM file.
    type: path
    required: true
  shown:
    description: How many entities and changes the result and the diff list at most.
    type: int
    default: 200
"""

EXAMPLES = r"""
- name: Plan the rollback
  apgms.release.rollback:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    object_store: "{{ apgms_object_store }}"
    policy: "{{ apgms_policy }}"
    statements: "{{ apgms_statements }}"
    log_key: "{{ apgms_log_key }}"
    operator: "{{ apgms_operator }}"
    target: 3f9a0c1d2b4e
  check_mode: true
  diff: true
  register: plan

- name: Roll back
  apgms.release.rollback:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    object_store: "{{ apgms_object_store }}"
    policy: "{{ apgms_policy }}"
    statements: "{{ apgms_statements }}"
    log_key: "{{ apgms_log_key }}"
    operator: "{{ apgms_operator }}"
    operator_key: "{{ apgms_operator_key }}"
    target: 3f9a0c1d2b4e
    plan_sha256: "{{ plan.plan_sha256 }}"
    reason: Duplicate deposits from the bank feed
"""

RETURN = r"""
target_sha256:
  description: The manifest checksum that O(target) names.
  returned: success
  type: str
plan_sha256:
  description: Digest of the plan.
  returned: success
  type: str
totals:
  description: Counts, and sums in cents, of what the plan does.
  returned: success
  type: dict
chains:
  description: Each entity, tax and period whose ledger goes back, up to O(shown).
  returned: when there is something to do
  type: list
  elements: dict
states:
  description: Each period and token that changes, before and after, up to O(shown).
  returned: when there is something to do
  type: list
  elements: dict
obligations:
  description: The submissions to amend at the authority, up to O(shown).
  returned: when there is something to do
  type: list
  elements: dict
undone:
  description: Manifest checksums of the releases that the rollback goes behind.
  returned: success
  type: list
  elements: str
incident_id:
  description: The incident of the rollback.
  returned: when it was carried out
  type: str
balances_sha256:
  description: Digest of every balance, which is the target's.
  returned: success
  type: str
proven:
  description: Whether nothing is left to prove of what was carried out.
  returned: success
  type: bool
summary:
  description: What was or would be done, and what to do next, in words.
  returned: success
  type: str
tree_size_before:
  description: Number of ledger rows before the rollback.
  returned: success
  type: int
tree_size_after:
  description: Number of ledger rows after it; the tree before is proven a prefix of this one.
  returned: when it was carried out
  type: int
"""

import secrets
from typing import TYPE_CHECKING, Any

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    holder,
    open_database,
    open_store,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback import (
    shown as rollback_shown,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback.order import (
    Order,
    Ports,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback.rollback import (
    predict,
    rollback,
)

if TYPE_CHECKING:
    from ansible_collections.apgms.release.plugins.module_utils.ports.database import Connection
    from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import (
        ObjectStore,
    )


def act(call: Call) -> Outcome:
    options, shown = call.options, call.options["shown"]
    run = predict if call.check_mode else rollback
    with open_database(call, "rollback") as connection:
        done = run(_order(options), _ports(options, connection, open_store(call)))
    return Outcome(
        changed=done.changed,
        result=rollback_shown.result(done, shown),
        before=rollback_shown.before(done, shown),
        after=rollback_shown.after(done, shown),
    )


def _order(options: dict[str, Any]) -> Order:
    names = ("stack", "target", "plan_sha256", "reason", "operator", "operator_key")
    return Order(
        **{name: options[name] for name in names},
        statements_dir=options["statements"],
        holder=holder(options["operator"]),
    )


def _ports(options: dict[str, Any], connection: Connection, store: ObjectStore) -> Ports:
    return Ports(
        connection=connection,
        store=store,
        policy=load_policy(connection, options["policy"], options["stack"]),
        log_signer=open_signer(options["log_key"], "ed25519"),
        clock=DatabaseClock(connection),
        nonce=lambda: secrets.token_hex(16),
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "target": {"type": "str", "required": True},
            "plan_sha256": {"type": "str"},
            "reason": {"type": "str", "default": ""},
            "operator": {"type": "str", "required": True},
            "operator_key": {"type": "path", "no_log": False},
            "statements": {"type": "path", "required": True},
            "log_key": {"type": "path", "required": True, "no_log": False},
            "shown": {"type": "int", "default": 200},
        },
    )


if __name__ == "__main__":
    main()
