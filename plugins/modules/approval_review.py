#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: approval_review
short_description: Show what an approver is asked to sign
version_added: 0.1.0
description:
  - Fetches the bundle of a manifest from the object store and carries out the checks of the
    auditors' runbook on it, namely checksum and files, build time, counts and amounts, a row of
    each batch with its signature, the submission id, the flags, the rates with their dates, one
    PAYGW bracket or one GST rate recomputed for each batch, and the ledger hashes.
  - For other statements it shows the subject that would be signed.
  - Needs neither the database nor a key. Signing is done by M(apgms.release.approval_sign).
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.object_store
  - apgms.release.policy
  - apgms.release.approval
attributes:
  check_mode:
    support: full
    description: Reads only, so there is no difference.
  diff_mode:
    support: none
    description: Reads only, so there is nothing to show.
"""

EXAMPLES = r"""
- name: What is to be approved
  apgms.release.approval_review:
    stack: prod
    object_store: s3://apgms-prod-release
    policy: inventories/prod/policy.json
    manifest: 9b74c9897bac770ffc029102a200c5de7a6e6f3c5d3b4a6c8e1f0d2b3a495867
  register: review
"""

RETURN = r"""
kind:
  description: The kind of statement that would be signed.
  returned: success
  type: str
subject:
  description: What the statement would name.
  returned: success
  type: dict
confirmation:
  description: What O(apgms.release.approval_sign#module:confirm) must be.
  returned: success
  type: str
checks:
  description: The checks, one line each, beginning with V(ok), V(FAIL) or V(note).
  returned: for a manifest
  type: list
  elements: str
failed_checks:
  description: Names of the checks that do not hold. Such a manifest cannot be approved.
  returned: for a manifest
  type: list
  elements: str
reason:
  description: Name of the rule that stopped the task.
  returned: failure
  type: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    APPROVAL_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approve import (
    Matter,
    draft,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    read_policy,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    policy = read_policy(options["policy"], options["stack"])
    matter = Matter(options["manifest"] or None, options["kind"] or None, options["subject"])
    wanted, examination = draft(store, policy, matter)
    result = {
        "kind": wanted.kind,
        "subject": wanted.subject,
        "confirmation": wanted.confirmation,
    }
    if examination:
        result["checks"] = examination.lines()
        result["failed_checks"] = [check.name for check in examination.failed]
    return Outcome(changed=False, result=result)


def main() -> None:
    run_module(act, {**STACK_SPEC, **OBJECT_STORE_SPEC, **POLICY_SPEC, **APPROVAL_SPEC})


if __name__ == "__main__":
    main()
