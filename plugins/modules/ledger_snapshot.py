#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: ledger_snapshot
short_description: Admit the ledger's new rows to its transparency log and sign the new head
version_added: 0.1.0
description:
  - Admits the rows of C(owa_ledger) that are new since the last snapshot to an RFC 6962 tree whose
    leaves are whole rows, proves the old tree a prefix of the new, and signs the new head as a C2SP
    checkpoint.
  - Checks every new row against the chain rule. Rows that deviate are named by id and kind, and are
    in the log like all others; they do not fail the task.
  - Rows, hash tiles and checkpoints go to the object store below C(log/ORIGIN/), where nothing is
    ever overwritten. C(docs/ledger-log.md) describes them and shows how to verify them with
    openssl.
  - Blocks no writer. It waits for the transactions that are writing the ledger, at most
    O(wait_seconds). A row that shows up below the frontier afterwards is named and admitted by the
    next snapshot.
  - A database restored from an older backup, a fork, a cut ledger and a damaged tile fail the task.
    Where O(verify=full), so does any admitted row that was changed or deleted, and every one of
    them is named.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Predicts size, root, checkpoint and findings; stores and records nothing.
  diff_mode:
    support: full
    description: Shows the tree, and rows, balance and chains with new rows of each namespace.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  log_key:
    description: Path of the log's Ed25519 private key (PEM), which the policy pins.
    type: path
    required: true
  verify:
    description:
      - V(incremental) reads the new rows only, and of the old ones those it needs to check them.
      - V(full) checks and hashes all rows again and builds the whole tree from them.
    type: str
    choices: [incremental, full]
    default: incremental
  wait_seconds:
    description:
      - How long to wait for transactions that are writing the ledger, in seconds; and, before that,
        as long again for another snapshot of the same log.
    type: float
    default: 30
  manifest:
    description:
      - Checksum of a manifest whose ledger head must be a prefix of the log.
    type: str
  restore:
    description:
      - Open a new origin, under a signed restore statement, after the log or the database was
        restored to an older state. The old origin is left as it is.
      - Where a signer of an origin that was opened before has left the policy, have it signed again
        instead.
    type: bool
    default: false
  statements:
    description: Folder of signed statements. Needed where O(restore=true).
    type: path
  operator:
    description: Principal of the operator. A statement signed by the operator does not count.
    type: str
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
- name: Snapshot the ledger
  apgms.release.ledger_snapshot:
    stack: prod
    database_url: postgresql://apgms_release@db.apgms.example/apgms
    database_password: "{{ apgms_database_password }}"
    object_store: s3://apgms-prod-evidence
    policy: inventories/prod/policy.json
    log_key: /etc/apgms/prod/log.pem

- name: Verify every row that was ever admitted, and that the manifest's head is still a prefix
  apgms.release.ledger_snapshot:
    stack: prod
    database_url: postgresql://apgms_release@db.apgms.example/apgms
    object_store: s3://apgms-prod-evidence
    policy: inventories/prod/policy.json
    log_key: /etc/apgms/prod/log.pem
    verify: full
    manifest: 6ae1c0b87be4a4dc1a5a3bd9d2c1c7f8fdd3a4f3d55fbb51f1e2f1f5dd30cb1e
"""

RETURN = r"""
origin:
  description: Origin of the log.
  returned: success
  type: str
tree_size:
  description: How many ledger rows the log holds.
  returned: success
  type: int
root:
  description: Root hash of the tree, hexadecimal.
  returned: success
  type: str
checkpoint:
  description: The signed checkpoint.
  returned: success
  type: str
previous_size:
  description: Tree size before this snapshot.
  returned: success
  type: int
new_rows:
  description: How many rows were admitted.
  returned: success
  type: int
checked_rows:
  description: How many rows were checked against the chain rule.
  returned: success
  type: int
deviations:
  description: Kinds of deviations among the checked rows, each with a count and ranges of ids.
  returned: success
  type: list
  elements: dict
  sample: [{"kind": "null_hash", "count": 3, "ids": [["1", "3"]]}]
late:
  description: Rows that showed up below the previous frontier, a count and ranges of ids.
  returned: success
  type: dict
  sample: {"count": 3, "ids": [["7", "7"], ["9", "10"]]}
unfinished:
  description: Transactions that were still writing the ledger when the wait for them ended.
  returned: success
  type: list
  elements: dict
namespaces:
  description: SHA-256 of C(ledger/NAMESPACE.json) by namespace; the content of ledger_hashes.json.
  returned: success
  type: dict
hash_summary:
  description: The lines that operator and auditor compare.
  returned: success
  type: list
  elements: str
consistency:
  description: The proof that the previous tree is a prefix of this one, hexadecimal hashes.
  returned: success
  type: list
  elements: str
cosigned_size:
  description: Tree size of the newest checkpoint that an auditor confirmed, 0 where there is none.
  returned: success
  type: int
changed_ids:
  description: Ranges of ids of rows that are not what the log admitted.
  returned: when the reason is log.rows_differ, log.database_behind or log.rows_gone
  type: list
  elements: list
missing_ids:
  description: Ranges of ids of rows that the log admitted and the ledger lacks.
  returned: when the reason is log.rows_differ, log.database_behind or log.rows_gone
  type: list
  elements: list
reason:
  description: Which rule refused, such as V(log.forked).
  returned: failure
  type: str
"""

import os

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    open_database,
    open_store,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.intact import (
    require_manifest_head,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.new_origin import (
    open_origin,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.snapshot import (
    Snapshot,
    take_snapshot,
)

NICENESS = 10


def act(call: Call) -> Outcome:
    os.nice(NICENESS)  # what writes the ledger meanwhile goes first
    options = call.options
    store = open_store(call)
    signer = open_signer(options["log_key"], "ed25519")
    with open_database(call, "ledger_snapshot") as connection:
        policy = load_policy(connection, options["policy"], options["stack"])
        clock = DatabaseClock(connection)
        if options["restore"]:
            open_origin(
                connection, store, policy, options["statements"], clock, options["operator"],
                wait_seconds=options["wait_seconds"],
            )  # fmt: skip
        snapshot = take_snapshot(
            connection, store, signer, policy, clock,
            verify=options["verify"], wait_seconds=options["wait_seconds"],
            progress=Progress(say_into(options["progress_file"])),
        )  # fmt: skip
        if options["manifest"]:
            require_manifest_head(store, policy, options["manifest"], snapshot.head)
    return outcome_of(snapshot)


def outcome_of(snapshot: Snapshot) -> Outcome:
    return Outcome(snapshot.changed, snapshot.result(), *snapshot.difference())


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "log_key": {"type": "path", "required": True, "no_log": False},
            "verify": {
                "type": "str",
                "choices": ["incremental", "full"],
                "default": "incremental",
            },
            "wait_seconds": {"type": "float", "default": 30},
            "manifest": {"type": "str"},
            "restore": {"type": "bool", "default": False},
            "statements": {"type": "path"},
            "operator": {"type": "str"},
            "progress_file": {"type": "path"},
        },
        required_if=[("restore", True, ["statements"])],
    )


if __name__ == "__main__":
    main()
