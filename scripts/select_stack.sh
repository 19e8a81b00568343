#!/bin/sh
# eval "$(scripts/select_stack.sh proto)": export what the inventory says about a stack.
# INVENTORY names another inventory than inventories/STACK. Where anything is wrong, the printed
# lines unset the variables and fail, so that no earlier choice stays in force.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$root/.venv/bin:$PATH
PYTHONPATH=$root/.collections
ANSIBLE_CONFIG=$root/ansible.cfg
export PATH PYTHONPATH ANSIBLE_CONFIG
exec python3 - "$root" "${1-}" <<'PROGRAM'
import json
import os
import shlex
import subprocess
import sys

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.flags import Inventory, resolve
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import PURPOSES
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

VARIABLES = ("STACK", "SEED", "SMOKE", "DRY_RUN", "AWS_PROFILE")


def refused(reason, where, why, mend):
    what = "No stack is selected"
    return ApgmsError(f"select_stack.{reason}", what, where=where, why=why, mend=mend)


def variables_of(inventory, stack):
    command = ["ansible-inventory", "-i", inventory, "--list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise refused("no_ansible", "PATH", "there is no ansible-inventory", "make setup") from None
    if done.returncode:
        raise refused("unreadable", inventory, done.stderr.strip(), "correct the inventory")
    listing = json.loads(done.stdout)
    hosts = listing.get(stack, {}).get("hosts", [])
    if len(hosts) != 1:
        why = f"its group {stack} has {len(hosts)} hosts, not one"
        raise refused("no_stack", inventory, why, f"INVENTORY=inventories/{stack}")
    return listing["_meta"]["hostvars"].get(hosts[0], {})


def exports(root, stack):
    if stack not in ("proto", "prod"):
        mend = 'eval "$(scripts/select_stack.sh proto)"'
        raise refused("unknown", "the argument", f"{stack!r} is not proto or prod", mend)
    inventory = os.environ.get("INVENTORY") or f"{root}/inventories/{stack}"
    found = variables_of(inventory, stack)
    if found.get("apgms_stack") != stack:
        why = f"apgms_stack is {found.get('apgms_stack')!r}"
        raise refused("other_stack", inventory, why, f"set apgms_stack: {stack} for its host")
    stated = found.get("apgms_flags")
    if not isinstance(stated, dict):
        why = f"apgms_flags is {stated!r}, not SEED, SMOKE and DRY_RUN"
        raise refused("no_flags", inventory, why, "set apgms_flags")
    flags = resolve(Inventory(stack, stated, file=inventory), PURPOSES[stack][0], []).flags
    values = (stack, int(flags.seed), int(flags.smoke), int(flags.dry_run))
    profile = found.get("apgms_aws_profile") or ""
    return dict(zip(VARIABLES, map(str, (*values, profile))))


def line(name, value):
    return f"export {name}={shlex.quote(value)}" if value else f"unset {name}"


try:
    lines = [line(name, value) for name, value in exports(*sys.argv[1:]).items()]
except ApgmsError as error:
    print(error, file=sys.stderr)
    print(f"unset {' '.join(VARIABLES)}; false")
    sys.exit(1)
print("\n".join(lines))
PROGRAM
