#!/bin/sh
# scripts/verify_rpt.sh --stack proto [--dry-run], or --stack prod: verify the RPTs, build the bundle.
# INVENTORY names another inventory than inventories/STACK; ARGS goes to ansible-playbook.
set -eu
usage() {
  echo "verify_rpt.sh: '$*' is not --stack proto [--dry-run], or --stack prod." \
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
if [ "$stack$dry_run" = prod1 ]; then
  echo "verify_rpt.sh: a dry run of prod is a rehearsal, with a signed permit." \
    "Mend: ansible-playbook -i inventories/prod playbooks/prod_rehearsal.yml" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
exec make --no-print-directory verify-rpt STACK="$stack" ${dry_run:+DRY_RUN=1}
