#!/bin/sh
# GNU General Public License v3.0+ (see COPYING)
# Verify the evidence of one run with stock tools: sh, sha256sum, openssl, ssh-keygen and jq.
#
#   sh verify.sh [--policy SHA256] [FOLDER]
#
# Checks every digest, signature and link in FOLDER, an unpacked archive (here by default). Names
# each file that is not what was sealed, and ends with 1 if there is one; the links between the
# files are followed where all of them are as sealed. All keys come from the archive's own
# policy.json: compare its SHA-256, which the last line says, with the one that your organisation
# has pinned, or give it with --policy.
# shellcheck disable=SC2016 # the dollars in single quotes are jq's
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

stop_on_findings() {
  [ "$failures" -gt 0 ] || return 0
  printf 'FAIL: %d findings; this evidence proves nothing until each is explained\n' "$failures"
  exit 1
}

sha256() { sha256sum <"$1" | cut -c 1-64; }
canonical() { jq -cjS . "$1" 2>/dev/null | cmp -s - "$1"; }
member() { jq -r "$2" "$1" 2>/dev/null; }

# decode TEXT OUT: base64 in its one exact form
decode() {
  printf %s "$1" | openssl base64 -d -A -out "$2" 2>/dev/null
  [ "$(openssl base64 -A -in "$2")" = "$1" ]
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
  jq -r --slurpfile policy policy.json '.signatures[0].keyid as $id
    | .payloadType, (.signatures | length), .payload, .signatures[0].sig,
      ($policy[0]'"$3"'[$id] // "")' "$1" >"$work/fields" 2>/dev/null
  {
    read -r type
    read -r count
    read -r payload
    read -r signature
    cat >"$work/key.pem"
  } <"$work/fields"
  if ! canonical "$1" || [ "$type $count" != "$2 1" ] || ! decode "$payload" "$4" ||
    ! decode "$signature" "$work/signature"; then
    fail "$1" "it is not a DSSE envelope of $2"
    return 1
  fi
  {
    printf 'DSSEv1 %d %s %d ' "${#2}" "$2" "$(wc -c <"$4")"
    cat "$4"
  } >"$work/message"
  signed "$work/key.pem" "$work/message" "$work/signature" && return 0
  fail "$1" "its signature does not hold under a key of the policy"
  return 1
}

# expect NAME FOUND EXPECTED WHAT: what a file says
expect() { [ "$2" = "$3" ] || fail "$1" "$4 is '$2', not '$3'"; }

# expect_digest NAME SHA256 WHO: what another file says of a file
expect_digest() {
  [ -f "$1" ] && [ "$(sha256 "$1")" = "$2" ] || fail "$1" "it is not the file that $3 names"
}

check_seal() {
  while read -r digest name; do
    expect_digest "$name" "$digest" seal.dsse.json
  done <"$work/sealed"
  find . -type f | sed 's,^\./,,' | while read -r name; do
    [ "$name" = seal.dsse.json ] || grep -qxF "$name" "$work/names" || echo "$name"
  done >"$work/foreign"
  while read -r name; do fail "$name" "it was not sealed"; done <"$work/foreign"
  envelope seal.dsse.json application/vnd.in-toto+json .manifest_keys "$work/seal"
}

check_manifest() {
  canonical manifest.json || fail manifest.json "it is not canonical JSON"
  expect_digest manifest.json "$manifest_sha256" seal.dsse.json
  expect manifest.json.sha256 "$(cat manifest.json.sha256)" \
    "$(sha256 manifest.json)  manifest.json" "what it says of manifest.json"
  envelope manifest.dsse.json application/vnd.in-toto+json .manifest_keys "$work/verdict" &&
    expect manifest.dsse.json \
      "$(member "$work/verdict" '.predicate.verdict as $found | .subject
        | map("\(.name) \(.digest.sha256) \($found.total - $found.valid)") | join(" ")')" \
      "manifest.json $manifest_sha256 0" "its subject, and the rows that it calls invalid"
  expect_digest image.jsonl "$image" manifest.json
  expect_digest "rates/$rates/catalog.json" "$rates_sha256" manifest.json
  expect "rates/$rates/rates.bundle.sha256" "$(cat "rates/$rates/rates.bundle.sha256")" \
    "$rates_sha256  catalog.json" "what it says of the catalog"
}

check_batches() {
  member manifest.json '.batches[] | "\(.tax_type) \(.period_id) \(.count) \(.amount_cents)"
    + " \(.rpt_sha256) \(.ledger_sha256)"' >"$work/batches"
  while read -r tax period count cents rpts ledger; do
    file=rpts/$tax-$period.jsonl
    expect_digest "$file" "$rpts" manifest.json
    expect_digest "ledger/$(echo "$tax" | tr '[:upper:]' '[:lower:]').json" "$ledger" manifest.json
    sums=$(jq -rn --arg tax "$tax" --arg period "$period" '
      reduce inputs as $row ([0, 0, 0]; ($row.payload_c14n | fromjson) as $signed |
        [.[0] + 1, .[1] + ($row.amount_cents | tonumber), .[2] + (
          if [$signed.entity_id, $signed.tax_type, $signed.period_id, $signed.amount_cents]
            == [$row.abn, $tax, $period, ($row.amount_cents | tonumber)]
          then 0 else 1 end)]) | map(tostring) | join(" ")' "$file")
    expect "$file" "$sums" "$count $cents 0" "its rows, cents and deviating payloads"
    check_first_token "$file"
  done <"$work/batches"
  expect manifest.json "$(member manifest.json '[(.batches | map(.count) | add) - .batch_total,
    (.batches | map(.amount_cents | tonumber) | add) - (.amount_total_cents | tonumber)] | add')" \
    0 "the difference between its batches and its totals"
}

# The first token of a batch under its issuer's key; all of them are covered by the batch's digest.
check_first_token() {
  head -n 1 "$1" >"$work/row"
  jq -j .payload_c14n "$work/row" >"$work/message"
  jq -r --slurpfile policy policy.json '.payload_sha256, $policy[0].rpt_keys[.kid],
    (.signature | gsub("-"; "+") | gsub("_"; "/") | rtrimstr("=") | rtrimstr("=") | . + "==")' \
    "$work/row" >"$work/fields"
  {
    read -r digest
    read -r key
    read -r signature
  } <"$work/fields"
  expect "$1" "$digest" "$(sha256 "$work/message")" "the digest of its first token"
  {
    echo "-----BEGIN PUBLIC KEY-----"
    # the DER header of an Ed25519 key, then its 32 bytes
    {
      printf '\060\052\060\005\006\003\053\145\160\003\041\000'
      echo "$key" | openssl base64 -d
    } | openssl base64 -A
    echo
    echo "-----END PUBLIC KEY-----"
  } >"$work/key.pem"
  printf %s "$signature" | openssl base64 -d -A -out "$work/signature"
  signed "$work/key.pem" "$work/message" "$work/signature" ||
    fail "$1" "the signature of its first token does not hold"
}

check_ledger() {
  expect_digest ledger_hashes.json "$hashes" manifest.json
  expect ledger_hashes.json "$(jq -cS . ledger_hashes.json)" \
    "$(jq -cS .ledger.namespaces manifest.json)" "what it says of the namespaces"
  member ledger_hashes.json 'to_entries[] | "\(.value) ledger/\(.key).json"' >"$work/namespaces"
  while read -r digest name; do
    expect_digest "$name" "$digest" ledger_hashes.json
  done <"$work/namespaces"
  expect_digest checkpoint "$checkpoint" manifest.json
  origin=$(member policy.json .log.origin)
  found=$(sed -n 3p checkpoint | openssl base64 -d | od -An -v -tx1 | tr -d ' \n')
  expect checkpoint "$(sed -n 1p checkpoint) $(sed -n 2p checkpoint) $found" \
    "$origin $size $root" "its head"
  head -n 3 checkpoint >"$work/message"
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
    fail "$2" "it is not a signature of $3 on $1"
}

check_signers() {
  member policy.json '.allowed_signers[]
    | gsub("(?<time>-(after|before)=\"[0-9]+)Z\""; .time + "\"")' >"$work/allowed_signers"
  member policy.json '.revoked_keys[]' >"$work/revoked_keys"
  for file in policy/policy.json.*.sig; do
    [ -f "$file" ] || continue
    signer=${file#policy/policy.json.}
    ssh_signed policy.json "$file" "${signer%.sig}" "apgms-policy-$(member policy.json .stack)"
  done
  for file in approvals/*.json; do
    [ -f "$file" ] || continue
    kind=$(member "$file" .kind)
    [ "$kind" = intent ] && act=intent || act=approval
    used=$(jq -r --arg sha256 "$(sha256 "$file")" 'select(
      any(.body.statements[]?; .sha256 == $sha256)) | .at[:19] | gsub("[-T:]"; "")' \
      journal.jsonl | head -n 1)
    [ -n "$used" ] || fail "$file" "no row of journal.jsonl uses it"
    ssh_signed "$file" "$file.sig" "$(member "$file" .signer)" \
      "apgms-$act-$(member "$file" .stack)" "$used"
    [ "$kind" != release ] || expect "$file" "$(member "$file" .subject.manifest_sha256)" \
      "$manifest_sha256" "the manifest that it approves"
  done
}

check_receipt() {
  envelope receipt.json application/vnd.apgms.receipt+json .gateway.keys "$work/receipt" || return
  expect receipt.json "$(member "$work/receipt" '"\(.manifest_sha256) \(.stack)"')" \
    "$manifest_sha256 $(member policy.json .stack)" "the manifest that it answers"
  [ ! -f manifest.json ] || expect receipt.json \
    "$(member "$work/receipt" '.accepted_count + .rejected_count')" \
    "$(member manifest.json .batch_total)" "the number of rows that it answers"
}

# check_chain FILE MEMBER: each line names the SHA-256 of the line before it, the first none
check_chain() {
  member "$1" "$2" >"$work/named"
  {
    echo
    while IFS= read -r line; do printf %s "$line" | sha256sum | cut -c 1-64; done <"$1"
  } | sed '$d' | cmp -s - "$work/named" || fail "$1" "its chain is broken"
}

if [ ! -f seal.dsse.json ] || [ ! -f policy.json ]; then
  fail "$PWD" "it holds no evidence: seal.dsse.json or policy.json is missing"
  stop_on_findings
fi
[ -z "$pinned" ] || expect policy.json "$(sha256 policy.json)" "$pinned" "its SHA-256"
member seal.dsse.json .payload | openssl base64 -d -A -out "$work/seal" 2>/dev/null
member "$work/seal" '.subject[] | "\(.digest.sha256) \(.name)"' >"$work/sealed"
cut -c 66- "$work/sealed" >"$work/names"
check_seal
stop_on_findings

manifest_sha256=$(member "$work/seal" .predicate.manifest_sha256)
if grep -qx manifest.json "$work/names"; then
  member manifest.json '"\(.image_sha256) \(.rates_version) \(.rates_bundle_sha256)"
    + " \(.ledger | "\(.hashes_sha256) \(.checkpoint_sha256) \(.tree_size) \(.root)")"' \
    >"$work/fields"
  read -r image rates rates_sha256 hashes checkpoint size root <"$work/fields"
  check_manifest
  check_batches
  check_ledger
fi
check_signers
if grep -qx receipt.json "$work/names"; then check_receipt; fi
if grep -qx journal.jsonl "$work/names"; then check_chain journal.jsonl .prev_sha256; fi
if grep -qx operations.jsonl "$work/names"; then check_chain operations.jsonl .previous; fi
stop_on_findings
printf 'PASS: %d files of manifest %s; %s; policy.json %s\n' "$(wc -l <"$work/names")" \
  "$manifest_sha256" "$(member "$work/seal" '.predicate
    | "\(.purpose), state \(.state), archive \(.number) after \(.previous_sha256)"')" \
  "$(sha256 policy.json)"
