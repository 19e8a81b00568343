#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: ledger_restore
short_description: Put missing ledger rows back as the log archived them
version_added: 0.1.0
description:
  - Compares the ledger with the archived rows of its log, and puts rows that are missing back, byte
    for byte, under a signed statement of kind C(restore) about exactly these rows.
  - This is the one exception to the rule that the ledger is only appended to. Rows that were
    changed are not overwritten; they are kept aside in the object store as they stand, and named.
  - Where nothing is missing or changed, nothing is done and no statement is needed.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Finds the damage and returns the digest that the statement must name.
  diff_mode:
    support: full
    description: Shows which rows are missing or changed, before and after.
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
options:
  operator:
    description: Principal of the operator; none of the signers of the statement.
    type: str
    required: true
  statements:
    description: Folder of the signed statements.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: What is missing, and which digest must be signed
  apgms.release.ledger_restore:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    object_store: "{{ apgms_object_store }}"
    policy: "{{ apgms_policy }}"
    statements: "{{ apgms_statements }}"
    operator: "{{ apgms_operator }}"
  check_mode: true
"""

RETURN = r"""
damage_sha256:
  description: Digest of what is missing and changed; a restore statement names it.
  returned: success
  type: str
missing:
  description: Number of rows that were missing.
  returned: success
  type: int
changed_rows:
  description: Number of rows that differ from what was archived.
  returned: success
  type: int
missing_ids:
  description: Ranges of ids that were missing, first and last.
  returned: success
  type: list
  elements: list
changed_ids:
  description: Ranges of ids that differ, first and last.
  returned: success
  type: list
  elements: list
rows:
  description: Which rows, in words.
  returned: success
  type: str
"""


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
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.restore import (
    predict,
    restore,
    result,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback.order import (
    StackPorts,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_store(call)
    with open_database(call, "restore") as connection:
        policy = load_policy(connection, options["policy"], options["stack"])
        if call.check_mode:
            damage = predict(connection, store, policy)
        else:
            damage = restore(
                StackPorts(
                    connection=connection,
                    store=store,
                    policy=policy,
                    clock=DatabaseClock(connection),
                ),
                operator=options["operator"],
                holder=holder(options["operator"]),
                statements_dir=options["statements"],
            )
    return Outcome(
        changed=bool(damage.missing),
        result=result(damage),
        before=damage.words,
        after="none",
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "operator": {"type": "str", "required": True},
            "statements": {"type": "path", "required": True},
        },
    )


if __name__ == "__main__":
    main()
