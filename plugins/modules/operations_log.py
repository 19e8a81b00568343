#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: operations_log
short_description: Verify the operations log and archive it
version_added: 0.1.0
description:
  - Verifies that every line of the log follows from the one before it, and stores the log in the
    object store under the SHA-256 of its last line.
  - The log itself is written by the callback P(apgms.release.operations_log#callback).
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Verifies the log; predicts whether an object would be stored.
  diff_mode:
    support: full
    description: Shows the key of the object that is stored.
options:
  path:
    description: The log file.
    type: path
    required: true
extends_documentation_fragment:
  - apgms.release.object_store
"""

EXAMPLES = r"""
- name: Archive the operations log
  apgms.release.operations_log:
    path: build/operations.jsonl
    object_store: s3://apgms-prod-evidence
"""

RETURN = r"""
entries:
  description: Number of lines.
  returned: success
  type: int
sha256:
  description: SHA-256 of the last line, hexadecimal.
  returned: success
  type: str
key:
  description: Key of the archived log in the object store.
  returned: success
  type: str
"""

from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    OBJECT_STORE_SPEC,
    Call,
    Outcome,
    open_store,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence.operations_log import (
    archive_key,
    archive_log,
)


def act(call: Call) -> Outcome:
    options = call.options
    head, stored = archive_log(Path(options["path"]), open_store(call))
    key = archive_key(head)
    return Outcome(
        changed=stored,
        result={"entries": head.entries, "sha256": head.sha256, "key": key},
        before={"archived": "" if stored else key},
        after={"archived": key},
    )


def main() -> None:
    run_module(act, {**OBJECT_STORE_SPEC, "path": {"type": "path", "required": True}})


if __name__ == "__main__":
    main()
