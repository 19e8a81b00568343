# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """What an approver is asked to sign."""

    DOCUMENTATION = r"""
options:
  manifest:
    description:
      - Manifest checksum of a prototype run or of a release, to approve it.
      - Leave it out for other kinds of statements.
    type: str
  kind:
    description:
      - The kind of statement.
      - With O(manifest) it may be left out; if given, it must be the kind that the manifest needs.
    type: str
    choices: [prototype, release, rehearsal, override, rollback, lock_break, restore]
  subject:
    description:
      - What a statement of O(kind) names, as the playbook that waits for it has printed it.
      - The page C(docs/approvals.md) lists the members for each kind.
    type: dict
"""
