#!/bin/sh
# GNU General Public License v3.0+ (see COPYING)
# Verify the evidence of one run with stock tools: sh, sha256sum, openssl, ssh-keygen and jq.
#
#   sh verify.sh [--policy SHA256] [FOLDER]
#
# Checks every digest, signature and link in FOLDER, an unpacked archive (here by default). Names
# each file that is not what was sealed, and ends with 1 if there is one. All keys come from the
# archive's own policy.json: compare its SHA-256, which the last line says, with the one that your
# organisation has pinned, or give it with --policy.
set -u
LC_ALL=C
export LC_ALL

pinned=
if [ "${1:-}" = --policy ]; then
  pinned=${2:?"--policy needs a SHA-256"}
  shift 2
fi
cd -- "${1:-.}" || exit 2
for tool in sha256sum openssl ssh-keygen jq; do
  command -v "$tool" >/dev/null || { echo "FAIL $tool is not installed"; exit 2; }
done
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
  printf 'FAIL %s: %s\n' "$1" "$2"
  failures=$((failures + 1))
}

sha256() { sha256sum <"$1" | cut -c 1-64; }
canonical() { jq -cjS . "$1" 2>/dev/null | cmp -s - "$1"; }
member() { jq -r "$2" "$1" 2>/dev/null; }

# decode FILE EXPRESSION OUT: base64 in its one exact form
decode() {
  member "$1" "$2" | tr -d '\n' >"$work/text"
  openssl base64 -d -A -in "$work/text" -out "$3" 2>/dev/null
  openssl base64 -A -in "$3" | cmp -s - "$work/text"
}

# signed KEY MESSAGE SIGNATURE: Ed25519, or ECDSA over SHA-256
signed() {
  if openssl pkey -pubin -in "$1" -noout -text 2>/dev/null | grep -q ED25519; then
    openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3" >/dev/null 2>&1
  else
    openssl dgst -sha256 -verify "$1" -signature "$3" "$2" >/dev/null 2>&1
  fi
}

# envelope FILE TYPE KEYS OUT: a DSSE envelope with one signature by a key of the policy
envelope() {
  if ! canonical "$1" || ! decode "$1" .payload "$4" ||
    ! decode "$1" '.signatures[0].sig' "$work/signature" ||
    [ "$(member "$1" '"\(.payloadType) \(.signatures | length)"')" != "$2 1" ]; then
    fail "$1" "it is not a DSSE envelope of $2"
    return 1
  fi
  jq -r --slurpfile envelope "$1" "$3"'[$envelope[0].signatures[0].keyid] // empty' policy.json \
    >"$work/key.pem" 2>/dev/null
  {
    printf 'DSSEv1 %d %s %d ' "${#2}" "$2" "$(wc -c <"$4")"
    cat "$4"
  } >"$work/message"
  signed "$work/key.pem" "$work/message" "$work/signature" && return 0
  fail "$1" "its signature does not hold under a key of the policy"
  return 1
}

# expect FILE EXPRESSION EXPECTED: what a JSON file says
expect() {
  found=$(member "$1" "$2")
  [ "$found" = "$3" ] || fail "$1" "$2 is '$found', not '$3'"
}

# expect_digest FILE SHA256 WHO: what another file says of a file
expect_digest() {
  [ -f "$1" ] && [ "$(sha256 "$1")" = "$2" ] || fail "$1" "it is not the file that $3 names"
}

check_seal() {
  envelope seal.dsse.json application/vnd.in-toto+json .manifest_keys "$work/seal" || return
  jq -r '.subject[] | "\(.digest.sha256) \(.name)"' "$work/seal" >"$work/sealed"
  while read -r digest name; do
    expect_digest "$name" "$digest" seal.dsse.json
  done <"$work/sealed"
  find . -type f | sed 's,^\./,,' | while read -r name; do
    [ "$name" = seal.dsse.json ] || grep -qxF "$name" "$work/names" || echo "$name"
  done >"$work/foreign"
  while read -r name; do fail "$name" "it was not sealed"; done <"$work/foreign"
}

check_manifest() {
  checksum=$(sha256 manifest.json)
  canonical manifest.json || fail manifest.json "it is not canonical JSON"
  [ "$(cat manifest.json.sha256)" = "$checksum  manifest.json" ] ||
    fail manifest.json.sha256 "it does not name the SHA-256 of manifest.json"
  expect "$work/seal" .predicate.manifest_sha256 "$checksum"
  if envelope manifest.dsse.json application/vnd.in-toto+json .manifest_keys "$work/verdict"; then
    expect "$work/verdict" '.subject | map("\(.name) \(.digest.sha256)") | join(" ")' \
      "manifest.json $checksum"
    expect "$work/verdict" '.predicate.verdict | .total - .valid' 0
  fi
  expect_digest image.jsonl "$(member manifest.json .image_sha256)" manifest.json
  rates=rates/$(member manifest.json .rates_version)
  expect_digest "$rates/catalog.json" "$(member manifest.json .rates_bundle_sha256)" manifest.json
  [ "$(cat "$rates/rates.bundle.sha256")" = "$(sha256 "$rates/catalog.json")  catalog.json" ] ||
    fail "$rates/rates.bundle.sha256" "it does not name the SHA-256 of catalog.json"
}

check_batches() {
  member manifest.json '.batches[] | "\(.tax_type) \(.period_id) \(.count) \(.amount_cents)
\(.rpt_sha256) \(.ledger_sha256)"' | paste -d ' ' - - >"$work/batches"
  while read -r tax period count cents rpts ledger; do
    file=rpts/$tax-$period.jsonl
    expect_digest "$file" "$rpts" manifest.json
    expect_digest "ledger/$(echo "$tax" | tr '[:upper:]' '[:lower:]').json" "$ledger" manifest.json
    sums=$(jq -rn --arg tax "$tax" --arg period "$period" '
      reduce inputs as $row ([0, 0, 0]; ($row.payload_c14n | fromjson) as $signed |
        [.[0] + 1, .[1] + ($row.amount_cents | tonumber), .[2] + (
          if $signed.amount_cents == ($row.amount_cents | tonumber)
            and [$signed.entity_id, $signed.tax_type, $signed.period_id] == [$row.abn, $tax, $period]
          then 0 else 1 end)]) | map(tostring) | join(" ")' "$file")
    [ "$sums" = "$count $cents 0" ] ||
      fail "$file" "rows, cents and deviating payloads are '$sums', not '$count $cents 0'"
    check_first_token "$file"
  done <"$work/batches"
  expect manifest.json '(.batches | map(.count) | add) - .batch_total' 0
  expect manifest.json '(.batches | map(.amount_cents | tonumber) | add)
    - (.amount_total_cents | tonumber)' 0
}

# The first token of a batch under its issuer's key; all of them are covered by the batch's digest.
check_first_token() {
  head -n 1 "$1" >"$work/row"
  printf %s "$(member "$work/row" .payload_c14n)" >"$work/message"
  expect "$work/row" .payload_sha256 "$(sha256 "$work/message")"
  {
    echo "-----BEGIN PUBLIC KEY-----"
    # the DER header of an Ed25519 key, then its 32 bytes
    {
      printf '\060\052\060\005\006\003\053\145\160\003\041\000'
      jq -r --slurpfile row "$work/row" '.rpt_keys[$row[0].kid]' policy.json | openssl base64 -d
    } | openssl base64 -A
    echo
    echo "-----END PUBLIC KEY-----"
  } >"$work/key.pem"
  jq -r '.signature | gsub("-"; "+") | gsub("_"; "/") | rtrimstr("=") | rtrimstr("=") | . + "=="' \
    "$work/row" | openssl base64 -d -A -out "$work/signature"
  signed "$work/key.pem" "$work/message" "$work/signature" ||
    fail "$1" "the signature of its first token does not hold"
}

check_ledger() {
  expect_digest ledger_hashes.json "$(member manifest.json .ledger.hashes_sha256)" manifest.json
  jq -cS . ledger_hashes.json >"$work/hashes"
  expect manifest.json '.ledger.namespaces | tojson' "$(cat "$work/hashes")"
  jq -r 'to_entries[] | "\(.value) \(.key)"' ledger_hashes.json >"$work/namespaces"
  while read -r digest name; do
    expect_digest "ledger/$name.json" "$digest" ledger_hashes.json
  done <"$work/namespaces"
  expect_digest checkpoint "$(member manifest.json .ledger.checkpoint_sha256)" manifest.json
  origin=$(member policy.json .log.origin)
  head -n 3 checkpoint >"$work/message"
  root=$(sed -n 3p checkpoint | openssl base64 -d | od -An -v -tx1 | tr -d ' \n')
  [ "$(sed -n 1p checkpoint) $(sed -n 2p checkpoint) $root" = \
    "$origin $(member manifest.json '"\(.ledger.tree_size) \(.ledger.root)"')" ] ||
    fail checkpoint "it is not the head that manifest.json names"
  member policy.json .log.key >"$work/key.pem"
  grep -F -- "— $origin " checkpoint | head -n 1 | cut -d ' ' -f 3 | openssl base64 -d -A |
    tail -c 64 >"$work/signature"
  signed "$work/key.pem" "$work/message" "$work/signature" ||
    fail checkpoint "the log's signature does not hold"
}

# ssh_signed FILE SIGNATURE PRINCIPAL NAMESPACE [TIME]
ssh_signed() {
  TZ=UTC0 ssh-keygen -q -Y verify -f "$work/allowed_signers" -r "$work/revoked_keys" -I "$3" \
    -n "$4" ${5:+-O "verify-time=$5"} -s "$2" <"$1" >/dev/null 2>&1 ||
    fail "$1" "the signature of $3 does not hold"
}

check_signers() {
  jq -r '.allowed_signers[] | gsub("(?<time>-(after|before)=\"[0-9]+)Z\""; .time + "\"")' \
    policy.json >"$work/allowed_signers"
  jq -r '.revoked_keys[]' policy.json >"$work/revoked_keys"
  stack=$(member policy.json .stack)
  for file in policy/policy.json.*.sig; do
    [ -f "$file" ] || continue
    signer=${file#policy/policy.json.}
    ssh_signed policy.json "$file" "${signer%.sig}" "apgms-policy-$stack"
  done
  for file in approvals/*.json; do
    [ -f "$file" ] || continue
    kind=$(member "$file" .kind)
    [ "$kind" = intent ] && act=intent || act=approval
    used=$(jq -r --arg sha256 "$(sha256 "$file")" 'select(
      any(.body.statements[]?; .sha256 == $sha256)) | .at[:19] | gsub("[-T:]"; "")' journal.jsonl)
    [ -n "$used" ] || fail "$file" "no row of journal.jsonl uses it"
    ssh_signed "$file" "$file.sig" "$(member "$file" .signer)" \
      "apgms-$act-$(member "$file" .stack)" "${used%%
*}"
    [ "$kind" != release ] || expect "$file" .subject.manifest_sha256 "$manifest_sha256"
  done
}

check_receipt() {
  envelope receipt.json application/vnd.apgms.receipt+json .gateway.keys "$work/receipt" || return
  expect "$work/receipt" .manifest_sha256 "$manifest_sha256"
  expect "$work/receipt" .stack "$(member policy.json .stack)"
  [ -f manifest.json ] || return
  expect "$work/receipt" '.accepted_count + .rejected_count' "$(member manifest.json .batch_total)"
}

# check_chain FILE MEMBER: each line names the SHA-256 of the line before it, the first none
check_chain() {
  jq -r "$2" "$1" >"$work/named" 2>/dev/null
  {
    echo
    while IFS= read -r line; do printf %s "$line" | sha256sum | cut -c 1-64; done <"$1"
  } >"$work/lines"
  sed '$d' "$work/lines" | cmp -s - "$work/named" ||
    { [ ! -s "$1" ] && [ ! -s "$work/named" ]; } || fail "$1" "its chain is broken"
}

if [ ! -f seal.dsse.json ] || [ ! -f policy.json ]; then
  fail "$PWD" "it holds no evidence: seal.dsse.json or policy.json is missing"
  exit 1
fi
[ -z "$pinned" ] || [ "$(sha256 policy.json)" = "$pinned" ] ||
  fail policy.json "its SHA-256 is $(sha256 policy.json), not $pinned"
decode seal.dsse.json .payload "$work/seal"
jq -r '.subject[].name' "$work/seal" >"$work/names" 2>/dev/null
manifest_sha256=$(member "$work/seal" .predicate.manifest_sha256)
check_seal
if grep -qx manifest.json "$work/names"; then
  check_manifest
  check_batches
  check_ledger
fi
check_signers
if grep -qx receipt.json "$work/names"; then check_receipt; fi
for file in journal.jsonl operations.jsonl; do
  if [ -f "$file" ]; then
    [ "$file" = journal.jsonl ] && link=.prev_sha256 || link=.previous
    check_chain "$file" "$link"
  fi
done

if [ "$failures" -gt 0 ]; then
  printf 'FAIL: %d findings; this evidence proves nothing until each is explained\n' "$failures"
  exit 1
fi
printf 'PASS: %d files of manifest %s (%s, state %s, archive %s after %s); policy.json %s\n' \
  "$(wc -l <"$work/names")" "$manifest_sha256" "$(member "$work/seal" .predicate.purpose)" \
  "$(member "$work/seal" .predicate.state)" "$(member "$work/seal" .predicate.number)" \
  "$(member "$work/seal" .predicate.previous_sha256)" "$(sha256 policy.json)"
