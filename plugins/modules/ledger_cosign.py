#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: ledger_cosign
short_description: Confirm the newest ledger checkpoint as an auditor
version_added: 0.1.0
description:
  - The auditor's act. Rebuilds the tree from all archived rows, and cosigns the newest checkpoint
    (C2SP tlog-cosignature, Ed25519) where every signed root comes out, and the totals and digests
    by namespace are those of the rows.
  - Needs the object store and the auditor's own copy of the policy, no database.
  - From then on a log that does not begin with the confirmed tree stops every snapshot, release and
    rollback.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Rebuilds and verifies the tree, and says what would be confirmed.
  diff_mode:
    support: full
    description: Shows the confirmed tree size before and after.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  cosign_key:
    description:
      - Path of the auditor's Ed25519 private key (PEM), pinned in C(log.cosigners) of the policy.
    type: path
    required: true
  progress_file:
    description:
      - File that progress is appended to, a line at a time.
      - On the controller the task shows these lines itself while it runs, and this is not needed.
    type: path
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.object_store
  - apgms.release.policy
"""

EXAMPLES = r"""
- name: Confirm the ledger checkpoint
  apgms.release.ledger_cosign:
    stack: prod
    object_store: s3://apgms-prod-evidence
    policy: policy.json
    cosign_key: ~/audit-cosign.pem
"""

RETURN = r"""
origin:
  description: Origin of the log.
  returned: success
  type: str
tree_size:
  description: Tree size of the confirmed checkpoint.
  returned: success
  type: int
root:
  description: Its root hash, hexadecimal.
  returned: success
  type: str
cosigner:
  description: Name of the cosigner.
  returned: success
  type: str
rebuilt_rows:
  description:
    - How many archived rows were hashed and counted again, which are all of the log's.
    - 0 where the checkpoint was confirmed before.
  returned: success
  type: int
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    open_store,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    read_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.cosign import cosign


def act(call: Call) -> Outcome:
    options = call.options
    done = cosign(
        open_store(call),
        read_policy(options["policy"], options["stack"]),
        open_signer(options["cosign_key"], "ed25519"),
        SystemClock(),
        Progress(say_into(options["progress_file"])),
    )
    after = {"confirmed_size": done.head.tree_size}
    return Outcome(
        changed=done.line is not None,
        result={
            "origin": done.head.origin,
            "tree_size": done.head.tree_size,
            "root": done.head.root.hex(),
            "cosigner": done.cosigner,
            "rebuilt_rows": done.rebuilt_rows,
        },
        before={"confirmed_size": done.confirmed_size} if done.line else after,
        after=after,
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "cosign_key": {"type": "path", "required": True, "no_log": False},
            "progress_file": {"type": "path"},
        },
    )


if __name__ == "__main__":
    main()
