#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: handover
short_description: Hand a run over to the auditors
version_added: 0.1.0
description:
  - Copies the manifest, its signed verdict, the checkpoint and the ledger hashes of a bundle to the
    auditors' object store, below C(STACK/MANIFEST CHECKSUM/), and opens a ticket there that names
    the rates version, the hash summary and the notes.
  - Handing over the same run again changes nothing. Nothing is ever overwritten.
  - Closing the ticket is the auditor's act and is not part of this module.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Predicts which objects would be delivered, and delivers none.
  diff_mode:
    support: full
    description: Shows the keys of the objects that are delivered.
options:
  manifest_sha256:
    description: The manifest checksum, 64 hexadecimal digits.
    type: str
    required: true
  audit_store:
    description:
      - Address of the auditors' object store, V(file:///FOLDER) or V(s3://BUCKET/PREFIX).
    type: str
    required: true
  notes:
    description: What the auditor should know.
    type: str
    default: ""
extends_documentation_fragment:
  - apgms.release.object_store
"""

EXAMPLES = r"""
- name: Hand the release over
  apgms.release.handover:
    manifest_sha256: 6ae1c0b87be4a4dc1a5a3bd9d2c1c7f8fdd3a4f3d55fbb51f1e2f1f5dd30cb1e
    object_store: s3://apgms-prod-evidence
    audit_store: s3://apgms-audit
    notes: Corrective release for 2025-09
"""

RETURN = r"""
ticket:
  description: Key of the ticket in the audit store.
  returned: success
  type: str
hash_summary:
  description: One digest over the manifest checksum, the tree root and the ledger hashes.
  returned: success
  type: str
delivered:
  description: Keys that were new in the audit store.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    OBJECT_STORE_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence.handover import (
    hand_over,
)


def act(call: Call) -> Outcome:
    options = call.options
    endpoint = options["object_store_endpoint"]
    audit_store = open_object_store(options["audit_store"], endpoint)
    done = hand_over(
        open_object_store(options["object_store"], endpoint),
        OverlayStore(audit_store) if call.check_mode else audit_store,
        options["manifest_sha256"],
        options["notes"],
    )
    return Outcome(
        changed=bool(done.delivered),
        result=vars(done),
        before={"delivered": []},
        after={"delivered": done.delivered},
    )


def main() -> None:
    run_module(
        act,
        {
            **OBJECT_STORE_SPEC,
            "manifest_sha256": {"type": "str", "required": True},
            "audit_store": {"type": "str", "required": True},
            "notes": {"type": "str", "default": ""},
        },
    )


if __name__ == "__main__":
    main()
