#!/bin/sh
# scripts/check_ledger.sh proto|prod: check the ledger, its log and every rollback.
# INVENTORY names another inventory than inventories/STACK; ARGS goes to ansible-playbook.
set -eu
case ${1-} in
  proto | prod) stack=$1 ;;
  *)
    echo "check_ledger.sh: '${1-}' is not a stack. Mend: scripts/check_ledger.sh prod" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
STACK=$stack
export PATH STACK
# shellcheck disable=SC2086 # ARGS is several words
exec ansible-playbook -i "${INVENTORY:-inventories/$stack}" ${ARGS-} playbooks/ledger_check.yml
