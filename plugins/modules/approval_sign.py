#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: approval_sign
short_description: Sign an approval with one's own SSH key
version_added: 0.1.0
description:
  - Signs a statement that a release, a prototype run, or one of the acts that need a signature is
    approved, with C(ssh-keygen -Y sign), and writes it to the folder of signed statements.
  - For a manifest, the checks of M(apgms.release.approval_review) are carried out again, and
    nothing is signed unless all hold.
  - Nothing is signed without O(confirm).
  - Where the same statement of the same signer stands already and is still valid, nothing changes.
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.object_store
  - apgms.release.policy
  - apgms.release.approval
attributes:
  check_mode:
    support: full
    description: Carries out all checks; signs nothing and writes nothing.
  diff_mode:
    support: full
    description: Shows the subject that is approved.
options:
  signer:
    description: The signer's principal in the policy.
    type: str
    required: true
  key:
    description:
      - Path of the signer's SSH private key.
      - For a key in an agent, or one with a passphrase, the path of its public key.
    type: path
    required: true
  confirm:
    description:
      - The signer's yes. It must be the manifest checksum, or O(kind) for other statements.
    type: str
  reason:
    description: Why. Required for every O(kind).
    type: str
    default: ""
  minutes:
    description: How long the statement is valid; as long as the policy allows if not given.
    type: int
  statements:
    description:
      - Folder that the statement is written to.
      - Without it, the statement is only returned in RV(entry), to be put there by other means.
    type: path
requirements:
  - ssh-keygen of OpenSSH 8.9 or newer
"""

EXAMPLES = r"""
- name: Approve a release
  apgms.release.approval_sign:
    stack: prod
    object_store: s3://apgms-prod-release
    policy: inventories/prod/policy.json
    statements: inventories/prod/statements
    manifest: 9b74c9897bac770ffc029102a200c5de7a6e6f3c5d3b4a6c8e1f0d2b3a495867
    confirm: 9b74c9897bac770ffc029102a200c5de7a6e6f3c5d3b4a6c8e1f0d2b3a495867
    signer: audrey
    key: ~/.ssh/id_ed25519

- name: Let a release go out outside the calendar
  apgms.release.approval_sign:
    stack: prod
    object_store: s3://apgms-prod-release
    policy: inventories/prod/policy.json
    statements: inventories/prod/statements
    kind: override
    subject:
      release_window: "202611251800"
    reason: The authority asked for the corrected statements today
    confirm: override
    signer: audrey
    key: ~/.ssh/id_ed25519.pub
"""

RETURN = r"""
statement:
  description: The statement.
  returned: success, not in check mode
  type: dict
  contains:
    kind:
      description: Its kind.
      type: str
    signer:
      description: The signer's principal.
      type: str
    sha256:
      description: Digest of its file.
      type: str
    expires_at:
      description: When it expires, UTC.
      type: str
path:
  description: The file it was written to, or stands in already.
  returned: success with O(statements), not in check mode
  type: str
entry:
  description: File names with their contents, for an inventory that is kept elsewhere.
  returned: success, not in check mode
  type: dict
checks:
  description: The checks that do not let the manifest be approved, with all others.
  returned: failure with a manifest that must not be approved
  type: list
  elements: str
reason:
  description: Name of the rule that stopped the task, such as V(approve.not_confirmed).
  returned: failure
  type: str
"""

import secrets

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    APPROVAL_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approve import (
    Matter,
    Order,
    approve,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    read_policy,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    order = Order(
        matter=Matter(options["manifest"] or None, options["kind"] or None, options["subject"]),
        signer=options["signer"],
        key=options["key"],
        confirm=options["confirm"],
        statements=options["statements"],
        reason=options["reason"],
        minutes=options["minutes"],
    )
    approval = approve(
        store,
        read_policy(options["policy"], options["stack"]),
        order,
        SystemClock().now(),
        secrets.token_hex(16),
        predict=call.check_mode,
    )
    return Outcome(approval.new, approval.result(), *approval.difference)


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            **APPROVAL_SPEC,
            "signer": {"type": "str", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
            "confirm": {"type": "str"},
            "reason": {"type": "str", "default": ""},
            "minutes": {"type": "int"},
            "statements": {"type": "path"},
        },
    )


if __name__ == "__main__":
    main()
