#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: release_check
short_description: Validate a release after it was acknowledged
version_added: 0.1.0
description:
  - Looks at the bundle against its manifest, the state of the submission, the stored receipt and
    its signature, the periods, tokens and payouts of the accepted RPTs, the ledger log, and the
    journal. Also at every other submission, none of which may have an outcome still to come.
  - What was found is data; the task fails where something is off.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode, so both modes do the same.
  diff_mode:
    support: none
    description: Changes nothing, so there is nothing to show.
options:
  manifest_sha256:
    description: The manifest checksum of the release; the newest release where it is not given.
    type: str
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Validate the newest release
  apgms.release.release_check:
    stack: prod
    database_url: postgresql://apgms@db.example/apgms
    object_store: s3://apgms-prod-evidence
    policy: inventories/prod/policy.json
"""

RETURN = r"""
manifest_sha256:
  description: The manifest checksum of the release.
  returned: always, also when something is off
  type: str
state:
  description: State of the submission.
  returned: always, also when something is off
  type: str
checks:
  description: What was looked at, whether it holds, and what was found.
  returned: always, also when something is off
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    holds:
      description: Whether it is as it must be.
      type: bool
    found:
      description: What was found.
      type: str
residual:
  description: What the authority did not accept, as a number of RPTs and an amount in cents.
  returned: always, also when something is off
  type: dict
  sample: {count: 0, amount_cents: "0"}
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
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.check import (
    Ports,
    check_release,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    with open_database(call, "release_check") as connection:
        policy = load_policy(connection, options["policy"], options["stack"])
        ports = Ports(connection, store, policy, DatabaseClock(connection))
        verdict = check_release(ports, options["stack"], options["manifest_sha256"] or None)
    return Outcome(False, verdict.as_dict(), failure=verdict.failure)


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "manifest_sha256": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
