#!/bin/sh
# scripts/check_seed.sh proto: recompute the seed of the prototype stack.
# INVENTORY names another inventory than inventories/proto; ARGS goes to ansible-playbook.
set -eu
if [ "${1-}" != proto ]; then
  echo "check_seed.sh: '${1-}' has no seed, only proto has. Mend: scripts/check_seed.sh proto" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
STACK=proto
export PATH STACK
# shellcheck disable=SC2086 # ARGS is several words
exec ansible-playbook -i "${INVENTORY:-inventories/proto}" ${ARGS-} playbooks/check_seed.yml
