# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations


class ModuleDocFragment:
    """The stack a module acts on."""

    DOCUMENTATION = r"""
options:
  stack:
    description:
      - The stack to act on.
    type: str
    choices: [proto, prod]
    required: true
"""
