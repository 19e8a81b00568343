#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: ledger_check
short_description: Check the ledger, its log and every rollback independently
version_added: 0.1.0
description:
  - Reads the whole ledger and the archived rows of its log, and counts everything again with code
    that shares no hashing and no SQL with snapshots, releases and rollbacks.
  - Checks that every archived row is in the ledger as it was; that the archived rows give the root
    of the newest checkpoint, which is signed with the pinned key; that every row follows the chain
    rule and carries its balance on; that each mirrored row negates its originals; and that after
    each rollback every balance is the target's and the ledger before it is a prefix.
  - Rows that deviate from the chain rule in the ways known from real deployments (no hash, a
    literal receipt, MD5) are told of and do not fail the task. Anything else does.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  progress_file:
    description:
      - File that progress is appended to, a line at a time.
      - On the controller the task shows these lines itself while it runs, and this is not needed.
    type: path
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
"""

EXAMPLES = r"""
- name: Check the ledger
  apgms.release.ledger_check:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    object_store: "{{ apgms_object_store }}"
    policy: "{{ apgms_policy }}"
"""

RETURN = r"""
summary:
  description: What was checked and found, in words.
  returned: always
  type: str
rows:
  description: Number of ledger rows.
  returned: always
  type: int
not_admitted:
  description: How many of them came after the log's newest checkpoint.
  returned: always
  type: int
tree_size:
  description: Number of rows in the log.
  returned: always
  type: int
rollbacks:
  description: How many rollbacks were checked.
  returned: always
  type: int
deviations:
  description: Kind of deviation, and the number and the first ids of its rows.
  returned: always
  type: dict
problems:
  description: What is wrong; empty where all is well.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    SHOWN_IDS,
    Findings,
    check_ledger,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    progress = Progress(say_into(options["progress_file"]))
    database = connect(options["database_url"], options["database_password"], purpose="check")
    with database as connection:
        with rehearsal(connection):
            policy = load_policy(connection, options["policy"], options["stack"])
        findings = check_ledger(connection, store, policy, progress)
    return Outcome(changed=False, result=_result(findings), failure=_failure(findings))


def _result(findings: Findings) -> dict[str, object]:
    return {
        "summary": findings.summary,
        "rows": findings.rows,
        "not_admitted": findings.not_admitted,
        "tree_size": findings.tree_size,
        "rollbacks": findings.rollbacks,
        "deviations": {
            kind: {"count": len(ids), "ids": ids[:SHOWN_IDS]}
            for kind, ids in findings.deviations.items()
        },
        "problems": findings.problems,
    }


def _failure(findings: Findings) -> str | None:
    if not findings.problems:
        return None
    return (
        f"The ledger check found problems. Where: owa_ledger and log {findings.origin}. Why:"
        f" {'; '.join(findings.problems)}. Mend: docs/rollback.md, section Damaged ledger; nothing"
        " may be released or rolled back before it is mended"
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "progress_file": {"type": "path"},
        },
    )


if __name__ == "__main__":
    main()
