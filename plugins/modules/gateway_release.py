#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_release
short_description: Send a release to the authority's gateway, exactly once, and record its receipt
version_added: 0.1.0
description:
  - Commits the intent, sends the bundle under one idempotency key, watches the gateway's job queue,
    verifies the receipt and records what it says, in the ledger, the periods and the tokens too.
  - Run again after any interruption, the same task goes on from where the last one stopped. A
    release that is finished changes nothing.
  - A timeout is never a failure of the release. The state is then C(UNKNOWN), which bars other
    releases, and the next run asks the gateway.
  - The stack's lock is held meanwhile. A second run stops and says who holds it, since when and on
    which release.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description:
      - Runs the same checks up to the first byte, in a transaction that is rolled back and on an
        object store that only reads; the gateway is not contacted.
      - The prediction takes for granted that the gateway accepts everything.
  diff_mode:
    support: full
    description: Shows state, attempts, job and receipt of the release before and after.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  manifest:
    description: The manifest checksum of the release, 64 hexadecimal digits.
    type: str
    required: true
  operator:
    description: The operator's principal in the policy; none of the approvers.
    type: str
    required: true
  operator_key:
    description: The operator's SSH key, which signs the intent.
    type: path
    required: true
  statements:
    description: Folder of the signed statements, with the approvals.
    type: path
    required: true
  time_limit:
    description:
      - How long this task may take, in seconds, watching included.
      - A release that is not finished by then fails the task, and the next run goes on.
    type: int
    default: 900
  break_lease:
    description:
      - Number of a live lease to break, as the refusal of the lock names it. A signed C(lock_break)
        statement about this number is needed.
    type: int
  progress_file:
    description:
      - File that progress is appended to, a line at a time.
      - On the controller the task shows these lines itself while it runs, and this is not needed.
    type: path
  shown:
    description: How many rejected rows the result lists; their total is always told.
    type: int
    default: 50
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.gateway
  - apgms.release.policy
requirements:
  - cryptography
  - ssh-keygen
seealso:
  - module: apgms.release.rpt_verify
  - module: apgms.release.approval_verify
"""

EXAMPLES = r"""
- name: Send the release and wait for the receipt
  apgms.release.gateway_release:
    stack: prod
    manifest: "{{ rpt_bundle_manifest_sha256 }}"
    operator: olivia
    operator_key: ~/.ssh/id_ed25519
    statements: inventories/prod/statements
    database_url: postgresql://apgms@db.example/apgms
    object_store: s3://apgms-prod-evidence
    gateway_url: https://gateway.example
    gateway_token: "{{ apgms_gateway_token }}"
    policy: inventories/prod/policy.json
"""

RETURN = r"""
state:
  description:
    - What is known of the release. C(ACKNOWLEDGED), C(PARTIAL) and C(REJECTED) are final.
  returned: always, also in failures that leave the release unfinished
  type: str
  sample: ACKNOWLEDGED
why:
  description: How the state came about, in words.
  returned: success
  type: str
manifest_sha256:
  description: The manifest checksum.
  returned: success
  type: str
submission_id:
  description: The submission id of the manifest.
  returned: success
  type: str
idempotency_key:
  description: The key that every attempt was made under.
  returned: success
  type: str
attempts:
  description: How many attempts to send there were, over all runs.
  returned: success
  type: int
job_id:
  description: The gateway's name of the submission; null in check mode, where it is not known yet.
  returned: success
  type: str
receipt_sha256:
  description: SHA-256 of the verified receipt; null in check mode.
  returned: success
  type: str
rows:
  description: Count and amount in cents of what was sent, accepted and rejected.
  returned: success
  type: dict
  sample:
    sent: {count: 200, amount_cents: "123456"}
    accepted: {count: 199, amount_cents: "123000"}
    rejected: {count: 1, amount_cents: "456"}
rejected:
  description:
    - The rejected rows and why. They are free again, and go into the next bundle.
  returned: success
  type: list
  elements: dict
  sample:
    - rpt_id: "7"
      abn: "53004085616"
      tax_type: GST
      period_id: 2025-09
      amount_cents: "456"
      reason: "not_payable: The authority does not accept this row."
replayed:
  description: Events that only the object store knew, which were taken over before anything else.
  returned: success
  type: list
  elements: str
"""

import secrets
from datetime import timedelta
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    GATEWAY_SPEC,
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
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import (
    shown as release_shown,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.release import (
    Order,
    Ports,
    predict,
    release,
)


def act(call: Call) -> Outcome:
    options = call.options
    steps = Steps()
    store = open_store(call)
    with open_database(call, "release") as connection:
        policy = steps.run(
            "policy.pin", lambda: load_policy(connection, options["policy"], options["stack"])
        )
        clock = DatabaseClock(connection)
        ports = Ports(
            connection=connection,
            store=store,
            gateway=open_gateway(
                options["gateway_url"],
                policy.gateway,
                ca=options["gateway_ca"],
                client_cert=options["gateway_client_cert"],
                client_key=options["gateway_client_key"],
                token=options["gateway_token"] or None,
                clock=clock,
            ),
            policy=policy,
            clock=clock,
            nonce=lambda: secrets.token_hex(16),
            progress=Progress(say_into(options["progress_file"])),
            steps=steps,
        )
        done = (predict if call.check_mode else release)(_order(options), ports)
        result = release_shown.result(done, connection, options["shown"])
    before, after = map(release_shown.difference, (done.before, done.after))
    return Outcome(before != after, result, before, after)


def _order(options: dict[str, Any]) -> Order:
    return Order(
        stack=options["stack"],
        manifest_sha256=options["manifest"],
        operator=options["operator"],
        operator_key=options["operator_key"],
        statements_dir=options["statements"],
        holder=holder(options["operator"]),
        time_limit=timedelta(seconds=options["time_limit"]),
        break_token=options["break_lease"],
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **GATEWAY_SPEC,
            **POLICY_SPEC,
            "manifest": {"type": "str", "required": True},
            "operator": {"type": "str", "required": True},
            "operator_key": {"type": "path", "required": True, "no_log": False},
            "statements": {"type": "path", "required": True},
            "time_limit": {"type": "int", "default": 900},
            "break_lease": {"type": "int"},
            "progress_file": {"type": "path"},
            "shown": {"type": "int", "default": 50},
        },
    )


if __name__ == "__main__":
    main()
