#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: stack_guard
short_description: Check the configuration of a run before anything else happens
version_added: 0.1.0
description:
  - Reads SEED, SMOKE and DRY_RUN strictly and refuses a run where the inventory, the extra
    variables, the process environment and the C(.env.STACK) file do not all say the same.
  - A flag is one of 1, true, yes, on, 0, false, no, off in any case, a boolean, or the number 0 or
    1. Everything else is an error. On proto a variable without a value counts as unstated; on prod
    it is an error, and the inventory must state all three flags.
  - proto requires DRY_RUN=1. A prod release requires SEED=0, SMOKE=0 and DRY_RUN=0. A prod
    rehearsal requires SEED=0, SMOKE=0 and DRY_RUN=1, and a signed permit.
  - STACK must be the inventory's stack wherever it is set. RELEASE_WINDOW and ROLLBACK_TARGET must
    be well formed and the same wherever they are set.
  - PROTO_KILL_SWITCH is reported and refuses nothing here, since a rollback and asking the gateway
    stay allowed. The modules that act refuse in a process that has it in its environment.
  - The refusal lists every setting that is wrong, with its place.
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - apgms.release.stack
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
options:
  flags:
    description: The flags as the inventory states them, with the keys SEED, SMOKE and DRY_RUN.
    type: dict
    required: true
  purpose:
    description:
      - What the run is for. A prototype release on proto; a release or a sanctioned rehearsal on
        prod.
      - The default is V(prototype) on proto and V(release) on prod.
    type: str
    choices: [prototype, release, rehearsal]
  variables:
    description:
      - Extra variables and AWX survey answers by the names of the runbook. Other names are ignored.
    type: dict
    default: {}
  environment:
    description: The process environment of the controller. Other names are ignored.
    type: dict
    default: {}
  env_file:
    description:
      - Path of the C(.env.STACK) file. A file that does not exist states nothing.
    type: path
  release_window:
    description: The release window as the inventory states it, 12 digits, YYYYMMDDHHMM.
    type: str
  rollback_target:
    description:
      - The rollback target as the inventory states it, a manifest checksum or at least its first 12
        digits.
    type: str
  groups:
    description: The inventory groups of the host. The other stack's group among them is refused.
    type: list
    elements: str
    default: []
  required_values:
    description:
      - Inventory variables that the run needs, with their values. Pass no secrets.
      - Empty values, V(<...>) and V(CHANGE_ME) count as not filled in; all are listed at once.
    type: dict
    default: {}
  inventory_file:
    description:
      - Where an operator corrects the inventory, for messages.
      - The default is V(inventories/STACK/group_vars/STACK.yml).
    type: str
"""

EXAMPLES = r"""
- name: Nothing contradicts the inventory of prod
  apgms.release.stack_guard:
    stack: prod
    flags: {SEED: 0, SMOKE: 0, DRY_RUN: 0}
    environment:
      STACK: "{{ lookup('ansible.builtin.env', 'STACK', default=omit) }}"
      DRY_RUN: "{{ lookup('ansible.builtin.env', 'DRY_RUN', default=omit) }}"
    env_file: .env.prod
    required_values:
      apgms_gateway_url: "{{ apgms_gateway_url }}"
"""

RETURN = r"""
stack:
  description: The stack.
  returned: success
  type: str
  sample: prod
purpose:
  description: What the run is for.
  returned: success
  type: str
  sample: release
flags:
  description: The flags, under the names that the manifest uses.
  returned: success
  type: dict
  sample: {seed: false, smoke: false, dryRun: false}
release_window:
  description: The release window that all places agree on, if any states one.
  returned: success
  type: str
  sample: "202611251800"
rollback_target:
  description: The rollback target that all places agree on, if any states one.
  returned: success
  type: str
kill_switch:
  description: Why PROTO_KILL_SWITCH stops what would act, and the place; null where it is off.
  returned: success
  type: str
  sample: the bank reports duplicate credits, in .env.prod line 3
agreeing:
  description: The variables that other places stated in agreement with the inventory.
  returned: success
  type: list
  elements: str
  sample: ["STACK in the process environment", "DRY_RUN in .env.prod line 3"]
reason:
  description: The rule that was broken first, such as V(flags.disagree).
  returned: failure
  type: str
problems:
  description: Every setting that is wrong.
  returned: when settings are refused
  type: list
  elements: dict
  contains:
    reason:
      description: The rule.
      type: str
    variable:
      description: The variable.
      type: str
    source:
      description: The place that states it.
      type: str
    why:
      description: What it says and what was expected.
      type: str
    mend:
      description: The command or edit that mends it.
      type: str
unset:
  description: The inventory variables that are not filled in.
  returned: when the inventory is not filled in
  type: list
  elements: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.flags import Inventory
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import PURPOSES
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.stack_guard import guard


def act(call: Call) -> Outcome:
    options = call.options
    stack = options["stack"]
    configuration, stated = guard(
        Inventory(
            stack,
            options["flags"],
            options["release_window"],
            options["rollback_target"],
            options["inventory_file"] or f"inventories/{stack}/group_vars/{stack}.yml",
        ),
        options["purpose"] or PURPOSES[stack][0],
        groups=options["groups"],
        required=options["required_values"],
        variables=options["variables"],
        environment=options["environment"],
        env_file=options["env_file"],
    )
    agreeing = [f"{setting.name} in {setting.source}" for setting in stated]
    return Outcome(changed=False, result={**configuration.as_result(), "agreeing": agreeing})


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            "flags": {"type": "dict", "required": True},
            "purpose": {"type": "str", "choices": ["prototype", "release", "rehearsal"]},
            "variables": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "env_file": {"type": "path"},
            "release_window": {"type": "str"},
            "rollback_target": {"type": "str"},
            "groups": {"type": "list", "elements": "str", "default": []},
            "required_values": {"type": "dict", "default": {}},
            "inventory_file": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
