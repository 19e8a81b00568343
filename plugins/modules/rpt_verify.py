#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: rpt_verify
short_description: Verify the RPT rows of a stack and build the bundle of a release
version_added: 0.1.0
description:
  - Verifies every RPT row that would be released, that is the tokens of the periods in
    C(READY_RPT). Payload hash, signature by a pinned key, fields, reconciliation, anomalies, the
    ledger's last hash, nonce, validity at issue, age and status. A row that breaks a rule fails the
    task and is listed by id with the reason.
  - Takes a snapshot of the ledger, writes the bundle and its C(manifest.json), and freezes the
    manifest under its submission id. A later run with the same submission id takes the same bytes.
  - The files are put to the object store before anything refers to them, so that another controller
    can go on. Nothing is ever overwritten.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description:
      - Verifies the rows and builds the bundle in memory and in a transaction that is rolled back;
        the database, the object store and the bundle folder stay as they are.
      - Everything is predicted except the manifest checksum, since a manifest carries the time at
        which it was built.
  diff_mode:
    support: full
    description: Shows the frozen manifest's batches, or the files that were fetched.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  flags:
    description:
      - The flags E(SEED), E(SMOKE) and E(DRY_RUN) of the run, each 1/true/yes/on or 0/false/no/off.
      - A prototype and a rehearsal require E(DRY_RUN) to be on, a release requires it to be off.
    type: dict
    required: true
  purpose:
    description:
      - What the bundle is for. The default is V(prototype) on proto and V(release) on prod.
    type: str
    choices: [prototype, release, rehearsal]
  submission_id:
    description:
      - The name that the bundle is frozen under; required for a release.
      - Without it the name is derived from the rows, the rates and the revision, so that the same
        inputs give the same bundle.
    type: str
  release_window:
    description: The release window, YYYYMMDDHHMM; required for a release.
    type: str
  source_revision:
    description: The git revision of the APGMS source that is released.
    type: str
    required: true
  approved_rates_version:
    description: The rates version of the approved prototype run; other rates are refused.
    type: str
  statements:
    description: Folder of the signed statements, with the permit of a rehearsal.
    type: path
  operator:
    description: The operator's principal, whose own signature permits no rehearsal.
    type: str
  rates_dir:
    description: Folder where M(apgms.release.rates_catalog) keeps the verified catalogs.
    type: path
    required: true
  bundle_dir:
    description: Folder where bundles are kept, one folder for each manifest checksum.
    type: path
    required: true
  manifest_key:
    description:
      - PEM file of the private key that signs manifests, ECDSA P-256; the policy must pin it.
    type: path
    required: true
  log_key:
    description: PEM file of the private key that signs ledger checkpoints, Ed25519.
    type: path
    required: true
  limit:
    description: How many invalid rows are listed; their total is always told.
    type: int
    default: 50
  site_rules:
    description:
      - Rules of the site over the manifest; nothing is frozen where one is broken.
      - A rule holds when its expression yields V(true) and nothing else.
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
requirements:
  - cryptography
  - jmespath (for O(site_rules))
"""

EXAMPLES = r"""
- name: Verify the RPTs and build the bundle
  apgms.release.rpt_verify:
    stack: prod
    flags:
      SEED: 0
      SMOKE: 0
      DRY_RUN: 0
    submission_id: 2025-10-bas
    release_window: "202510201000"
    source_revision: 4f2a9c1
    approved_rates_version: 2025-26.1
    rates_dir: libs/rates
    bundle_dir: build/prod/bundles
    database_url: postgresql://apgms@db.example/apgms
    object_store: s3://apgms-prod-evidence
    policy: inventories/prod/policy.json
    manifest_key: keys/manifest.pem
    log_key: keys/log.pem
"""

RETURN = r"""
verdict:
  description:
    - What was found, rows and amounts. Null where a frozen bundle was taken as it is.
  returned: always, also when rows are invalid
  type: dict
  sample:
    total: 200
    valid: 199
    invalid_total: 1
    invalid:
      - id: "7"
        abn: "53004085616"
        tax_type: GST
        period_id: 2025-09
        findings: ["rpt.status: it is REVOKED, not ISSUED or active"]
    reasons: {rpt.status: 1}
    expired_since: 200
    amount_cents: "123456"
    left_out: {}
    without_token: 0
    columns_absent: [rpt_tokens.kid]
manifest:
  description: The manifest as stored in C(manifest.json).
  returned: when no row is invalid
  type: dict
manifest_sha256:
  description: The manifest checksum; not predicted in check mode for a bundle that would be built.
  returned: when no row is invalid
  type: str
bundle:
  description: Folder of the bundle on this controller.
  returned: when no row is invalid
  type: str
frozen_before:
  description: Whether the bundle stood already and was taken as it is.
  returned: when no row is invalid
  type: bool
site_rules:
  description: What each rule of the site found in the manifest.
  returned: always, also when a rule is broken
  type: list
  elements: dict
  sample: [{name: something to release, holds: true, found: true}]
fetched:
  description: Files of the bundle that this controller lacked and took from the object store.
  returned: when no row is invalid
  type: list
  elements: str
publish_task:
  description: State of the manifest's submission; null where no publish task is queued for it.
  returned: when no row is invalid
  type: str
"""

from pathlib import Path
from typing import Any

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
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.flags import (
    Inventory,
    resolve,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.site_rules import (
    parse_site_rules,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import PURPOSES
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import ObjectStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.rpt_bundle import (
    SITE_RULES,
    Bundle,
    Order,
    Ports,
    build_bundle,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_store(call)
    local: ObjectStore = FolderStore(Path(options["bundle_dir"]))
    if call.check_mode:
        local = OverlayStore(local)
    with open_database(call, "rpt_verify") as connection:
        ports = Ports(
            connection=connection,
            store=store,
            local=local,
            policy=load_policy(connection, options["policy"], options["stack"]),
            manifest_signer=open_signer(options["manifest_key"], "ecdsa-p256"),
            log_signer=open_signer(options["log_key"], "ed25519"),
            clock=DatabaseClock(connection),
            progress=Progress(say_into(options["progress_file"])),
        )
        bundle = build_bundle(_order(options), ports)
    return outcome_of(bundle, Path(options["bundle_dir"]))


def _order(options: dict[str, Any]) -> Order:
    stack = options["stack"]
    purpose = options["purpose"] or PURPOSES[stack][0]
    asked = Inventory(stack, options["flags"], options["release_window"])
    configuration = resolve(asked, purpose, [])
    return Order(
        stack=stack,
        purpose=purpose,
        flags=configuration.flags,
        submission_id=options["submission_id"] or None,
        release_window=configuration.release_window,
        source_revision=options["source_revision"],
        rates_dir=Path(options["rates_dir"]),
        approved_rates_version=options["approved_rates_version"] or None,
        limit=options["limit"],
        site_rules=parse_site_rules(
            ((rule["name"], rule["expression"]) for rule in options["site_rules"]), SITE_RULES
        ),
        statements_dir=options["statements"] or "",
        operator=options["operator"],
    )


def outcome_of(bundle: Bundle, folder: Path) -> Outcome:
    result: dict[str, Any] = {
        "verdict": bundle.verdict.as_dict() if bundle.verdict else None,
        "site_rules": [
            {"name": one.rule.name, "holds": one.holds, "found": one.found} for one in bundle.site
        ],
    }
    if bundle.manifest is None:
        return Outcome(False, result, failure=bundle.failure)
    checksum = bundle.manifest.checksum
    result |= {
        "manifest": bundle.manifest.document(),
        "manifest_sha256": checksum,
        "bundle": str(folder / checksum),
        "frozen_before": not bundle.built,
        "fetched": bundle.fetched,
        "publish_task": bundle.publish_task,
    }
    before, after = bundle.difference
    return Outcome(before != after, result, before, after, bundle.failure)


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
            **POLICY_SPEC,
            "flags": {"type": "dict", "required": True},
            "purpose": {"type": "str", "choices": ["prototype", "release", "rehearsal"]},
            "submission_id": {"type": "str"},
            "release_window": {"type": "str"},
            "source_revision": {"type": "str", "required": True},
            "approved_rates_version": {"type": "str"},
            "statements": {"type": "path"},
            "operator": {"type": "str"},
            "rates_dir": {"type": "path", "required": True},
            "bundle_dir": {"type": "path", "required": True},
            "manifest_key": {"type": "path", "required": True, "no_log": False},
            "log_key": {"type": "path", "required": True, "no_log": False},
            "limit": {"type": "int", "default": 50},
            "site_rules": {"type": "list", "elements": "dict", "default": [], "options": rule},
            "progress_file": {"type": "path"},
        },
        required_if=[("purpose", "rehearsal", ["statements"])],
    )


if __name__ == "__main__":
    main()
