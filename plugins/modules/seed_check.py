#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: seed_check
short_description: Recompute the seeded sandbox ledger and name each mismatch
version_added: 0.1.0
description:
  - Recomputes everything that M(apgms.release.ledger_seed) wrote, by rules in SQL that share no
    code with it. Hash chains and balances, withholding and GST from the rates catalog, liabilities
    from payroll and trade, Merkle roots, states, tokens with their signatures, the audit chain.
  - Refuses every stack but proto, which alone has a seeded ledger.
  - A mismatch fails the task. Each is listed with its rule, row, expected and found value, up to a
    limit for each rule, and all are counted.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads, in one read-only transaction.
  diff_mode:
    support: none
    description: The module changes nothing.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  entities:
    description: How many entities the ledger must hold.
    type: int
    default: 100
  periods:
    description: Ids of the periods that the ledger must hold.
    type: list
    elements: str
    required: true
  rates_dir:
    description: Folder where M(apgms.release.rates_catalog) keeps the verified catalogs.
    type: path
    required: true
  limit:
    description: How many mismatches are listed for each rule.
    type: int
    default: 20
  progress_file:
    description:
      - File that progress is appended to, a line at a time.
      - On the controller the task shows these lines itself while it runs, and this is not needed.
    type: path
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.policy
requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Verify the seed
  apgms.release.seed_check:
    stack: proto
    entities: 100
    periods: [2025-09]
    rates_dir: libs/rates
    policy: inventories/proto/policy.json
    database_url: postgresql://apgms@localhost/apgms_proto
"""

RETURN = r"""
status:
  description: V(pass) or V(fail).
  returned: always, also when there are mismatches
  type: str
rules:
  description: Each rule with the number of rows that break it.
  returned: always, also when there are mismatches
  type: dict
  sample: {ledger.balance: 0, ledger.hash_after: 1}
mismatch_total:
  description: How many mismatches there are.
  returned: always, also when there are mismatches
  type: int
mismatches:
  description: The mismatches, up to O(limit) for each rule.
  returned: always, also when there are mismatches
  type: list
  elements: dict
  sample:
    - rule: ledger.hash_after
      table: owa_ledger
      row: id 7
      expected: 3f0c...
      found: 77ab...
rates_version:
  description: The rates that the amounts were recomputed with.
  returned: always, also when there are mismatches
  type: str
"""

from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
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
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.check_seed import (
    Checked,
    Expectation,
    check_seed,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed import (
    require_proto,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_kept,
)


def act(call: Call) -> Outcome:
    options = call.options
    require_proto(options["stack"])
    catalog = newest_kept(Path(options["rates_dir"]), options["periods"])
    database = connect(options["database_url"], options["database_password"], purpose="check_seed")
    with database as connection:
        with rehearsal(connection):
            policy = load_policy(connection, options["policy"], options["stack"])
        expectation = Expectation(
            options["entities"], options["periods"], catalog.data, policy.rpt_keys
        )
        progress = Progress(say_into(options["progress_file"]))
        checked = check_seed(connection, expectation, limit=options["limit"], progress=progress)
    return outcome_of(checked, catalog.rates_version)


def outcome_of(checked: Checked, rates_version: str) -> Outcome:
    result = {**checked.to_json(), "rates_version": rates_version}
    return Outcome(False, result, failure=_failure(checked) if checked.total else None)


def _failure(checked: Checked) -> str:
    first = checked.mismatches[0]
    return (
        f"The seeded ledger deviates in {checked.total} places. Where: first {first.table},"
        f" {first.row}. Why: {first.rule}: expected {first.expected}, found {first.found}."
        " Mend: seed an empty database again; do not correct rows by hand"
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **POLICY_SPEC,
            "entities": {"type": "int", "default": 100},
            "periods": {"type": "list", "elements": "str", "required": True},
            "rates_dir": {"type": "path", "required": True},
            "progress_file": {"type": "path"},
            "limit": {"type": "int", "default": 20},
        },
    )


if __name__ == "__main__":
    main()
