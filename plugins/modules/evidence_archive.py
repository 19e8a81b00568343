#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_archive
short_description: Package a run for auditors
version_added: 0.1.0
description:
  - Packs the bundle of a manifest, its approvals, its receipt, the journal, the operations log and
    a verification script into one archive, seals it with the manifest key, and stores it.
  - The archive is deterministic, the same files give the same bytes. Nothing is overwritten.
  - A prototype and a rehearsal are sealed when they are packaged, a release when the authority has
    answered. What happens later to the manifest goes into a second archive that names the first.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description:
      - Packs and seals in memory and stores nothing. The archive's SHA-256 is not predicted, since
        no two ECDSA signatures are alike.
  diff_mode:
    support: full
    description: Shows how many archives of the manifest there are before and after.
options:
  manifest_sha256:
    description: The manifest checksum, 64 hexadecimal digits.
    type: str
    required: true
  evidence_dir:
    description: Folder where archives are kept on this controller.
    type: path
    required: true
  manifest_key:
    description: PEM file of the private key that signs manifests, ECDSA P-256.
    type: path
    required: true
  verify_script:
    description: The script that verifies an unpacked archive, which goes into it as C(verify.sh).
    type: path
    required: true
  operations_log:
    description: The operations log so far; without it none is packed.
    type: path
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
  - apgms.release.object_store
  - apgms.release.policy
requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Package the artifacts, upload them for auditors
  apgms.release.evidence_archive:
    stack: prod
    manifest_sha256: 6ae1c0b87be4a4dc1a5a3bd9d2c1c7f8fdd3a4f3d55fbb51f1e2f1f5dd30cb1e
    evidence_dir: build/prod/evidence
    manifest_key: keys/manifest.pem
    verify_script: roles/evidence/files/verify.sh
    operations_log: build/operations.jsonl
    database_url: postgresql://apgms@db.example/apgms
    object_store: s3://apgms-prod-evidence
    policy: inventories/prod/policy.json
"""

RETURN = r"""
archive:
  description: Path of the newest archive on this controller.
  returned: success
  type: str
archive_key:
  description: Key of the newest archive in the object store.
  returned: success
  type: str
archive_sha256:
  description: SHA-256 of the newest archive.
  returned: success
  type: str
number:
  description: Number of the newest archive; the first one holds the bundle.
  returned: success
  type: int
previous_sha256:
  description: SHA-256 of the archive before it; null for the first.
  returned: success
  type: str
state:
  description: State of the manifest's submission; null where it was never to be sent.
  returned: success
  type: str
policy_sha256:
  description: SHA-256 of the policy in the archive, to be compared with the pinned one.
  returned: success
  type: str
"""

from pathlib import Path

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
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import ObjectStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence.evidence import (
    Order,
    Ports,
    package,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_store(call)
    local: ObjectStore = FolderStore(Path(options["evidence_dir"]))
    if call.check_mode:
        local = OverlayStore(local)
    log = options["operations_log"]
    order = Order(
        stack=options["stack"],
        checksum=options["manifest_sha256"],
        policy_path=Path(options["policy"]),
        verify_script=Path(options["verify_script"]),
        operations_log=Path(log) if log else None,
    )
    with open_database(call, "evidence") as connection:
        policy = load_policy(connection, options["policy"], options["stack"])
        signer = open_signer(options["manifest_key"], "ecdsa-p256")
        evidence = package(order, Ports(connection, store, local, policy, signer))
    entry = evidence.entry
    return Outcome(
        changed=evidence.changed,
        result={
            "archive": str(Path(options["evidence_dir"]) / entry.name),
            "archive_key": evidence.key,
            "archive_sha256": entry.archive_sha256,
            "number": entry.number,
            "previous_sha256": entry.previous_sha256,
            "state": evidence.state,
            "policy_sha256": policy.digest,
        },
        before=evidence.before,
        after=evidence.after,
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            **OBJECT_STORE_SPEC,
            **POLICY_SPEC,
            "manifest_sha256": {"type": "str", "required": True},
            "evidence_dir": {"type": "path", "required": True},
            "manifest_key": {"type": "path", "required": True, "no_log": False},
            "verify_script": {"type": "path", "required": True},
            "operations_log": {"type": "path"},
        },
    )


if __name__ == "__main__":
    main()
