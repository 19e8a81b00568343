#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: approval_verify
short_description: Stop unless a release is approved
version_added: 0.1.0
description:
  - Verifies the signed statements that let a production release go out, namely the prototype
    approval of the same source revision, rates and collection version, and the release approval of
    this very manifest.
  - Signatures are checked with C(ssh-keygen -Y verify) against the signers of the policy.
  - Where an approval is missing, the task fails as waiting for approval and says which command the
    approver runs. The same playbook resumes afterwards.
  - The first policy that a stack sees is trusted on first use and pinned in the database; a later
    one must be signed by the quorum of the one before it.
  - M(apgms.release.gateway_release) verifies the approvals again when it commits to sending, and
    uses them up.
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
attributes:
  check_mode:
    support: full
    description: Verifies all the same; a new policy is not pinned.
  diff_mode:
    support: full
    description: Shows the version and digest of the policy in force, before and after.
options:
  manifest:
    description: Manifest checksum of the release.
    type: str
    required: true
  statements:
    description: Folder of the signed statements, each C(NAME.json) with C(NAME.json.sig).
    type: path
    required: true
  operator:
    description:
      - The principal who releases. The policy must let him sign intents.
      - His own approvals do not count.
    type: str
    required: true
  inventory:
    description: The inventory to name in the approver's command; C(inventories/STACK) if not given.
    type: str
requirements:
  - ssh-keygen of OpenSSH 8.9 or newer
"""

EXAMPLES = r"""
- name: The release is approved
  apgms.release.approval_verify:
    stack: prod
    database_url: postgresql://release@db.example/apgms
    object_store: s3://apgms-prod-release
    policy: inventories/prod/policy.json
    statements: inventories/prod/statements
    operator: olivia
    manifest: 9b74c9897bac770ffc029102a200c5de7a6e6f3c5d3b4a6c8e1f0d2b3a495867
"""

RETURN = r"""
approvals:
  description: The statements that count.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(prototype) or V(release).
      type: str
    signer:
      description: The signer's principal.
      type: str
    sha256:
      description: Digest of the statement's file.
      type: str
    manifest_sha256:
      description: The manifest that the statement names. Absent where the approvals are used.
      type: str
    expires_at:
      description: When the statement expires, UTC. Absent where the approvals are used.
      type: str
used:
  description: Whether this release has used its approvals already, and only has to be finished.
  returned: success
  type: bool
policy:
  description: The policy in force.
  returned: success
  type: dict
  contains:
    version:
      description: Its version.
      type: int
    sha256:
      description: Digest of its file.
      type: str
    signers:
      description: Whose signatures brought it into force.
      type: list
      elements: str
    trust:
      description: V(first use) for the first policy of a stack, V(succession) for all others.
      type: str
refusals:
  description: Statements that do not count, each with its reason.
  returned: success, and while waiting for approval
  type: list
  elements: dict
  contains:
    reason:
      description: Name of the rule, such as V(statement.expired).
      type: str
    where:
      description: The file.
      type: str
    why:
      description: What was expected and what was found.
      type: str
reason:
  description: The rule that stopped the task, V(approval.waiting) where approvals are missing.
  returned: failure
  type: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    open_database,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.verdict import (
    Question,
    verify_approvals,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    question = Question(
        stack=options["stack"],
        policy=options["policy"],
        statements=options["statements"],
        manifest_sha256=options["manifest"],
        operator=options["operator"],
        inventory=options["inventory"],
    )
    with open_database(call, "approval") as connection, connection.transaction():
        now = DatabaseClock(connection).now()
        pinned, verdict = verify_approvals(connection, store, question, now)
    before, after = pinned.difference
    return Outcome(before != after, {**verdict, "policy": pinned.summary}, before, after)


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "manifest": {"type": "str", "required": True},
            "statements": {"type": "path", "required": True},
            "operator": {"type": "str", "required": True},
            "inventory": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
