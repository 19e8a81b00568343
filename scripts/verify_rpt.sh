#!/bin/sh
# scripts/verify_rpt.sh --stack proto|prod [--dry-run]: verify the RPTs and build the bundle.
# INVENTORY names another inventory than inventories/STACK; ARGS goes to ansible-playbook.
set -eu
usage() {
  echo "verify_rpt.sh: '$*' is not --stack proto|prod [--dry-run]." \
    "Mend: scripts/verify_rpt.sh --stack proto --dry-run" >&2
  exit 2
}
asked=$*
stack=
dry_run=
while [ $# -gt 0 ]; do
  case $1 in
    --stack)
      [ $# -gt 1 ] || usage "$asked"
      stack=$2
      shift
      ;;
    --dry-run) dry_run=1 ;;
    *) usage "$asked" ;;
  esac
  shift
done
case $stack in
  proto | prod) ;;
  *) usage "$asked" ;;
esac
cd "$(dirname "$0")/.."
exec make --no-print-directory verify-rpt STACK="$stack" ${dry_run:+DRY_RUN=1}
