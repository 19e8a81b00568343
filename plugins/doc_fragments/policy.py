# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """The signed policy of a stack."""

    DOCUMENTATION = r"""
options:
  policy:
    description:
      - Path of the stack's policy, a canonical JSON file with its signatures beside it.
      - It pins the gateway, the keys and the log, and says who may sign what.
    type: path
    required: true
"""
