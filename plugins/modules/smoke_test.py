#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: smoke_test
short_description: Ask every part of the prototype stack once
version_added: 0.1.0
description:
  - Asks the database, the object store, the gateway and the rates, recomputes the ledger's chain
    and the BAS labels, and signs and verifies a token in memory. Each probe says what was expected
    and what was found.
  - A part that cannot be reached fails its probes and does not end the test. The task fails unless
    every probe passes.
  - Refuses every stack but proto.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
options:
  periods:
    description: Ids of the reporting periods.
    type: list
    elements: str
    required: true
  rates_dir:
    description: Folder where M(apgms.release.rates_catalog) keeps the verified catalogs.
    type: path
    required: true
  rpt_key:
    description: File with the Ed25519 key that tokens are issued with, base64 of its seed.
    type: path
    required: true
  site_rules:
    description:
      - Rules of the site, each a probe more.
      - A rule holds when its expression, applied to the result, yields V(true) and nothing else.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the rule.
        type: str
        required: true
      expression:
        description: A JMESPath expression. Amounts are decimal strings of cents.
        type: str
        required: true
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.gateway
  - apgms.release.policy
requirements:
  - cryptography
  - jmespath
"""

EXAMPLES = r"""
- name: Smoke test
  apgms.release.smoke_test:
    stack: proto
    periods: [2025-09]
    rates_dir: libs/rates
    rpt_key: keys/rpt.seed
    database_url: postgresql://apgms@localhost/apgms_proto
    object_store: file:///srv/apgms/proto
    gateway_url: https://gateway.sandbox.example
    policy: inventories/proto/policy.json
    site_rules:
      - name: something was withheld
        expression: probes[?name=='bas_labels'].to_number(found.W2) | [0] > `0`
"""

RETURN = r"""
result:
  description: The result, which C(roles/smoke) writes to a file.
  returned: always, also when a probe fails
  type: dict
  contains:
    schema:
      description: Name and version of this format.
      type: str
      sample: apgms.release/smoke/1
    stack:
      description: The stack.
      type: str
    periods:
      description: The periods.
      type: list
      elements: str
    summary:
      description: C(status), V(pass) or V(fail), how many probes passed, and which failed.
      type: dict
      sample: {status: pass, passed: 7, failed: []}
    probes:
      description: One entry for each probe.
      type: list
      elements: dict
      sample:
        - name: chain
          expected: {rows: some, ledger.balance: 0, ledger.prev_hash: 0, ledger.hash_after: 0}
          found: {rows: 10105, ledger.balance: 0, ledger.prev_hash: 0, ledger.hash_after: 0}
          status: pass
"""

from pathlib import Path
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    GATEWAY_SPEC,
    OBJECT_STORE_SPEC,
    POLICY_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.site_rules import (
    parse_site_rules,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
from ansible_collections.apgms.release.plugins.module_utils.ports.rpt_key import open_rpt_key
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.smoke import (
    SmokePorts,
    SmokeRequest,
    run_smoke,
)


def act(call: Call) -> Outcome:
    options = call.options
    rules = ((rule["name"], rule["expression"]) for rule in options["site_rules"])
    request = SmokeRequest(
        stack=options["stack"],
        period_ids=options["periods"],
        rates_dir=Path(options["rates_dir"]),
        policy=options["policy"],
        site_rules=parse_site_rules(rules, "site_rules"),
    )
    return outcome_of(run_smoke(_ports(options), request))


def _ports(options: dict[str, Any]) -> SmokePorts:
    return SmokePorts(
        database=lambda: connect(
            options["database_url"], options["database_password"], purpose="smoke"
        ),
        store=lambda: open_object_store(options["object_store"], options["object_store_endpoint"]),
        gateway=lambda policy: open_gateway(
            options["gateway_url"],
            policy.gateway,
            ca=options["gateway_ca"],
            client_cert=options["gateway_client_cert"],
            client_key=options["gateway_client_key"],
            token=options["gateway_token"],
        ),
        rpt_key=lambda: open_rpt_key(Path(options["rpt_key"])),
    )


def outcome_of(result: dict[str, Any]) -> Outcome:
    failed = [probe for probe in result["probes"] if probe["status"] == "fail"]
    return Outcome(False, {"result": result}, failure=_failure(failed) if failed else None)


def _failure(failed: list[dict[str, Any]]) -> str:
    found = "; ".join(
        f"{probe['name']}: expected {probe['expected']}, found {probe['found']}" for probe in failed
    )
    return f"The smoke test fails in {len(failed)} probes. {found}"


def main() -> None:
    rule = {
        "name": {"type": "str", "required": True},
        "expression": {"type": "str", "required": True},
    }
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **GATEWAY_SPEC,
            **POLICY_SPEC,
            "periods": {"type": "list", "elements": "str", "required": True},
            "rates_dir": {"type": "path", "required": True},
            "rpt_key": {"type": "path", "required": True, "no_log": False},
            "site_rules": {"type": "list", "elements": "dict", "default": [], "options": rule},
        },
    )


if __name__ == "__main__":
    main()
