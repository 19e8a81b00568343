#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: List the releases of a stack and which of them may be rolled back to
version_added: 0.1.0
description:
  - Lists every release that was ever to be sent, in order of intent, with its state, approval and
    receipt.
  - A good target of a rollback was acknowledged by the authority and approved by the auditor, has
    not been rolled back itself, and its manifest is in the object store as it was built. For every
    other release the reason is told.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
"""

EXAMPLES = r"""
- name: What can be rolled back to
  apgms.release.release_info:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    object_store: "{{ apgms_object_store }}"
  register: releases

- name: The good targets
  ansible.builtin.debug:
    msg: "{{ releases.good_targets }}"
"""

RETURN = r"""
releases:
  description: Each release, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    manifest_sha256:
      description: The manifest checksum.
      type: str
    state:
      description: Its state, such as C(ACKNOWLEDGED) or C(UNKNOWN).
      type: str
    intent_at:
      description: When it was committed to be sent, in UTC.
      type: str
    submission_id:
      description: Its submission id.
      type: str
    receipt_sha256:
      description: Digest of the authority's receipt.
      type: str
    approved_by:
      description: The approvers whose statements it used.
      type: list
      elements: str
    release_window:
      description: The window it was built for.
      type: str
    rates_version:
      description: The rates it was built with.
      type: str
    source_revision:
      description: The APGMS source revision it was built from.
      type: str
    batch_total:
      description: Number of RPT rows.
      type: int
    amount_total_cents:
      description: Sum of its amounts, in cents.
      type: str
    tree_size:
      description: Number of ledger rows when it was built.
      type: int
    good_target:
      description: Whether it may be rolled back to.
      type: bool
    why_not:
      description: Why it may not be rolled back to.
      type: str
obligations:
  description: What rollbacks left to be amended at the authority, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    incident_id:
      description: The incident of the rollback.
      type: str
    manifest_sha256:
      description: The release that was undone.
      type: str
    rpt_id:
      description: The submitted RPT.
      type: str
    abn:
      description: The entity.
      type: str
    tax_type:
      description: The tax.
      type: str
    period_id:
      description: The period.
      type: str
    amount_cents:
      description: The amount that the authority holds, in cents.
      type: str
good_targets:
  description: Manifest checksums of the good targets, the last known good one last.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    OBJECT_STORE_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.info import (
    describe,
    obligations,
    past_releases,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    database = connect(options["database_url"], options["database_password"], purpose="releases")
    with database as connection, rehearsal(connection):
        migrate(connection)
        releases = past_releases(connection, store, options["stack"])
        owed = obligations(connection)
    good = [release.manifest_sha256 for release in releases if release.why_not is None]
    return Outcome(
        changed=False,
        result={
            "releases": [*map(describe, releases)],
            "good_targets": good,
            "obligations": owed,
        },
    )


def main() -> None:
    run_module(act, {**STACK_SPEC, **DATABASE_SPEC, **OBJECT_STORE_SPEC})


if __name__ == "__main__":
    main()
