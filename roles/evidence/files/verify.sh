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
#
# jq reads all files at once and says what it finds, one finding a line, its fields separated by the
# ASCII unit separator; the shell verifies the signatures.
# shellcheck disable=SC2016 # the dollars in single quotes are jq's
set -u
LC_ALL=C
export LC_ALL

pinned=
if [ "${1:-}" = --policy ]; then
  pinned=${2:?"--policy needs a SHA-256"}
  shift 2
fi
cd -- "${1:-.}" 2>/dev/null || { echo "FAIL: cannot enter ${1:-.}"; exit 2; }
for tool in sha256sum openssl ssh-keygen jq; do
  command -v "$tool" >/dev/null || { echo "FAIL: $tool is not installed"; exit 2; }
done
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
separator=$(printf '\037')
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

# What both jq programs use: $ARGS.named holds the text of each file under its name.
rules='
  def text($name): $ARGS.named[$name] // "";
  def said: tostring | gsub("[\u001f\n]"; " ");
  def line(fields): [fields | said] | join("\u001f");
  def object: try fromjson catch null | if type == "object" then . else {} end;
  def document($name): text($name) | object;
  def sorted: if type == "object" then . as $object
      | reduce keys[] as $name ({}; .[$name] = ($object[$name] | sorted))
    elif type == "array" then map(sorted) else . end;
  # U+FFFD stands where a file is not UTF-8
  def canonical($name): text($name) | (try fromjson catch null | sorted | tojson) == .
    and (contains("\ufffd") | not);
  def exact: type == "string" and test(
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$");
  def decoded: if exact then @base64d else "" end | object;
  # the base64 of a public key in PEM
  def key: tostring / "\n" | map(select(startswith("-") | not)) | join("");
  def policy: document("policy.json");
  def seal: document("seal.dsse.json").payload | decoded;
  # a DSSE envelope with one signature by a key of the policy
  def envelope($name; $media; keys): document($name) as $found
    | ($found.signatures | if type == "array" then . else [] end) as $signatures
    | ($signatures[0] // {}) as $signature
    | if canonical($name) and $found.payloadType == $media and ($signatures | length) == 1
        and ($found.payload | exact) and ($signature.sig | exact)
      then line("ENVELOPE", $name, $media, (keys[$signature.keyid | tostring] // "" | key),
                $signature.sig, $found.payload)
      else line("FAIL", $name, "it is not a DSSE envelope of " + $media) end;'

links='
  seal as $seal | policy as $policy | document("manifest.json") as $manifest
  | ($seal.subject | map({key: .name, value: .digest.sha256}) | from_entries) as $sealed
  | $seal.predicate.manifest_sha256 as $checksum

  # what a file says
  | def expect($name; $found; $expected; $what): select($found != $expected)
      | line("FAIL", $name, "\($what) is \($found), not \($expected)");
  # what another file says of a file
  def named($name; $digest; $who): select($sealed[$name] != $digest)
    | line("FAIL", $name, "it is not the file that \($who) names");
  def rows($name): text($name) / "\n" | .[:-1] | map(try fromjson catch {});
  # each line names the SHA-256 of the line before it, the first none
  def chain($name; member): select($sealed[$name])
    | (["", (text("digests of \($name)") / "\n" | .[:-1][])] | .[:-1]) as $before
    | select((rows($name) | map(member)) != $before
        or (text($name) | (. == "" or endswith("\n")) | not))
    | line("FAIL", $name, "its chain is broken");

  def batches: (reduce inputs as $line ({}; input_filename as $file
      | ($line | try fromjson catch null) as $row
      | ($row.payload_c14n | try fromjson catch null) as $signed
      | .[$file] = (.[$file] // [0, 0, 0, $row] | [.[0] + 1,
          .[1] + ($row.amount_cents | try tonumber catch 0),
          .[2] + (if [$signed.entity_id, "rpts/\($signed.tax_type)-\($signed.period_id).jsonl",
              $signed.amount_cents] == [$row.abn, $file, ($row.amount_cents | try tonumber catch 0)]
            then 0 else 1 end), .[3]]))) as $batches
    | $manifest.batches[] | "rpts/\(.tax_type)-\(.period_id).jsonl" as $file
    | ($batches[$file] // [0, 0, 0, null]) as [$count, $cents, $deviating, $first]
    | named($file; .rpt_sha256; "manifest.json"),
      named("ledger/\(.tax_type | ascii_downcase).json"; .ledger_sha256; "manifest.json"),
      expect($file; "\($count) \($cents) \($deviating)"; "\(.count) \(.amount_cents) 0";
        "its rows, cents and deviating payloads"),
      line("TOKEN", $file, $first.payload_sha256, $policy.rpt_keys[$first.kid | tostring],
        ($first.signature | tostring | gsub("-"; "+") | gsub("_"; "/") | rtrimstr("=")
          | rtrimstr("=") + "=="), $first.payload_c14n);

  def manifest: (select(canonical("manifest.json") | not)
      | line("FAIL", "manifest.json", "it is not canonical JSON")),
    named("manifest.json"; $checksum; "seal.dsse.json"),
    expect("manifest.json.sha256"; text("manifest.json.sha256"); "\($checksum)  manifest.json\n";
      "what it says of manifest.json"),
    envelope("manifest.dsse.json"; "application/vnd.in-toto+json"; $policy.manifest_keys),
    expect("manifest.dsse.json";
      (document("manifest.dsse.json").payload | decoded | .predicate.verdict as $found | .subject
        | map("\(.name) \(.digest.sha256) \($found.total - $found.valid)") | join(" "));
      "manifest.json \($checksum) 0"; "its subject, and the rows that it calls invalid"),
    named("image.jsonl"; $manifest.image_sha256; "manifest.json"),
    named("rates/\($manifest.rates_version)/catalog.json"; $manifest.rates_bundle_sha256;
      "manifest.json"),
    ("rates/\($manifest.rates_version)/rates.bundle.sha256" | expect(.; text(.);
      "\($manifest.rates_bundle_sha256)  catalog.json\n"; "what it says of the catalog")),
    expect("manifest.json"; [(.batches | map(.count) | add) - .batch_total,
        (.batches | map(.amount_cents | tonumber) | add) - (.amount_total_cents | tonumber)];
      [0, 0]; "the difference between its batches and its totals");

  def ledger: $manifest.ledger as $ledger
    | named("ledger_hashes.json"; $ledger.hashes_sha256; "manifest.json"),
      expect("ledger_hashes.json"; document("ledger_hashes.json"); $ledger.namespaces;
        "what it says of the namespaces"),
      (document("ledger_hashes.json") | to_entries[]
        | named("ledger/\(.key).json"; .value; "ledger_hashes.json")),
      named("checkpoint"; $ledger.checkpoint_sha256; "manifest.json"),
      line("CHECKPOINT", "checkpoint", ($policy.log.key | key), $policy.log.origin,
        "\($policy.log.origin) \($ledger.tree_size) \($ledger.root)");

  def signers:
    ($policy.allowed_signers[]? | line("SIGNER",
      gsub("(?<time>-(after|before)=\"[0-9]+)Z\""; .time + "\""))),
    ($policy.revoked_keys[]? | line("REVOKED", .)),
    ($sealed | keys[] | capture("^(?<sig>policy/policy\\.json\\.(?<signer>.+)\\.sig)$")
      | line("SSH", .sig, "policy.json", .signer, "apgms-policy-\($policy.stack)", ""));

  # statements are verified at the time when they were used, which the journal says
  def statements:
    (reduce (rows("journal.jsonl") | reverse[]) as $row ({}; . + ([$row.body.statements[]?
      | {key: .sha256, value: ($row.at[:19] | gsub("[-T:]"; ""))}] | from_entries))) as $used
    | $sealed | keys[] | select(test("^approvals/.*\\.json$")) as $name
    | document($name) as $found | $used[$sealed[$name]] as $time
    | (if $found.kind == "intent" then "intent" else "approval" end) as $act
    | (select($time == null) | line("FAIL", $name, "no row of journal.jsonl uses it")),
      line("SSH", $name + ".sig", $name, $found.signer, "apgms-\($act)-\($found.stack)",
        $time // ""),
      (select($found.kind == "release") | expect($name; $found.subject.manifest_sha256; $checksum;
        "the manifest that it approves"));

  def receipt: envelope("receipt.json"; "application/vnd.apgms.receipt+json"; $policy.gateway.keys),
    (document("receipt.json").payload | decoded
      | expect("receipt.json"; "\(.manifest_sha256) \(.stack)"; "\($checksum) \($policy.stack)";
          "the manifest that it answers"),
        (select($sealed["manifest.json"])
          | expect("receipt.json"; .accepted_count + .rejected_count; $manifest.batch_total;
              "the number of rows that it answers")));

  (if $sealed["manifest.json"] then ($manifest | manifest), batches, ledger else empty end),
  signers, statements,
  (if $sealed["receipt.json"] then receipt else empty end),
  chain("journal.jsonl"; .prev_sha256), chain("operations.jsonl"; .previous),
  ($seal.predicate | line("END", "\($sealed | length) files of manifest \($checksum); \(.purpose)"
    + (if .state then ", state \(.state)" else "" end) + ", archive \(.number)"
    + (if .previous_sha256 then " after \(.previous_sha256)" else "" end)))'

# signed SIGNATURE KEY: both in base64; of $work/message, with Ed25519, or ECDSA over SHA-256
signed() {
  printf %s "$1" | openssl base64 -d -A -out "$work/signature" 2>/dev/null
  printf -- '-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n' "$2" >"$work/key.pem"
  case $2 in
    MCowBQYDK2VwAyEA*)
      openssl pkeyutl -verify -pubin -inkey "$work/key.pem" -rawin -in "$work/message" \
        -sigfile "$work/signature"
      ;;
    *) openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/message" ;;
  esac >/dev/null 2>&1
}

# check_envelope FILE TYPE KEY SIGNATURE PAYLOAD
check_envelope() {
  padding=${5##*[!=]}
  {
    printf 'DSSEv1 %d %s %d ' "${#2}" "$2" "$((${#5} * 3 / 4 - ${#padding}))"
    printf %s "$5" | openssl base64 -d -A
  } >"$work/message"
  signed "$4" "$3" || fail "$1" "its signature does not hold under a key of the policy"
}

# check_token FILE DIGEST KEY SIGNATURE MESSAGE: the first token of a batch under its issuer's key;
# all of them are covered by the batch's digest. The base64 of an Ed25519 key is that of its DER
# header, then that of its 32 bytes.
check_token() {
  printf %s "$5" >"$work/message"
  [ "$(sha256 "$work/message")" = "$2" ] || fail "$1" "it is not the digest of its first token"
  signed "$4" "MCowBQYDK2VwAyEA$3" || fail "$1" "the signature of its first token does not hold"
}

# check_checkpoint FILE KEY ORIGIN HEAD: its first three lines, the root in hexadecimal
check_checkpoint() {
  {
    IFS= read -r origin
    IFS= read -r size
    IFS= read -r root
    while read -r dash signer signature; do
      [ "$dash $signer" != "— $3" ] || break
    done
  } <"$1"
  found=$(printf %s "$root" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
  [ "$origin $size $found" = "$4" ] || fail "$1" "its head is '$origin $size $found', not '$4'"
  printf '%s\n%s\n%s\n' "$origin" "$size" "$root" >"$work/message"
  # the signature follows the 4 bytes that name its key
  signature=$(printf %s "$signature" | openssl base64 -d -A | tail -c 64 | openssl base64 -A)
  signed "$signature" "$2" || fail "$1" "the log's signature does not hold"
}

# ssh_signed FILE SIGNATURE PRINCIPAL NAMESPACE TIME
ssh_signed() {
  TZ=UTC0 ssh-keygen -q -Y verify -f "$work/allowed_signers" -r "$work/revoked_keys" -I "$3" \
    -n "$4" ${5:+-O "verify-time=$5"} -s "$2" <"$1" >/dev/null 2>&1 ||
    fail "$2" "it is not a signature of $3 on $1"
}

# act_on FILE: act on what jq has said in $work/findings of FILE and others
act_on() {
  while IFS=$separator read -r kind name first second third fourth; do
    case $kind in
      FAIL) fail "$name" "$first" ;;
      SEALED) printf '%s  ./%s\n' "$first" "$name" >>"$work/sealed" ;;
      ENVELOPE) check_envelope "$name" "$first" "$second" "$third" "$fourth" ;;
      TOKEN) check_token "$name" "$first" "$second" "$third" "$fourth" ;;
      CHECKPOINT) check_checkpoint "$name" "$first" "$second" "$third" ;;
      SIGNER) printf '%s\n' "$name" >>"$work/allowed_signers" ;;
      REVOKED) printf '%s\n' "$name" >>"$work/revoked_keys" ;;
      SSH) ssh_signed "$first" "$name" "$second" "$third" "$fourth" ;;
      END)
        summary=$name
        return
        ;;
    esac
  done <"$work/findings"
  fail "$1" "it cannot be read to the end"
}

# check_seal: every file is as sealed, and none is there besides; the seal is signed
check_seal() {
  : >"$work/sealed"
  jq -nr --rawfile seal.dsse.json seal.dsse.json --rawfile policy.json policy.json "$rules"'
    (seal.subject[]?
      | if (.digest.sha256 | tostring | test("^[0-9a-f]{64}$")) and .name == (.name | said)
      then line("SEALED", .name, .digest.sha256)
      else line("FAIL", "seal.dsse.json", "it seals \(tojson), which is no file") end),
    (select(policy == {}) | line("FAIL", "policy.json", "it is not a JSON object")),
    envelope("seal.dsse.json"; "application/vnd.in-toto+json"; policy.manifest_keys),
    line("END")' >"$work/findings" 2>/dev/null
  act_on seal.dsse.json
  find . ! -type d ! -path ./seal.dsse.json -exec sha256sum {} + | sort >"$work/found"
  sort "$work/sealed" | cmp -s - "$work/found" || name_differences
}

# name_differences: between $work/sealed and $work/found
name_differences() {
  while read -r digest name; do
    grep -qxF "$digest  $name" "$work/found" ||
      fail "${name#./}" "it is not the file that seal.dsse.json names"
  done <"$work/sealed"
  while read -r digest name; do
    cut -c 67- "$work/sealed" | grep -qxF "$name" || fail "${name#./}" "it was not sealed"
  done <"$work/found"
}

# lines_of FILE: the SHA-256 of each of its lines into $work/FILE
lines_of() {
  mkdir "$work/lines"
  number=1000000000
  while IFS= read -r line; do
    number=$((number + 1))
    printf %s "$line" >"$work/lines/$number"
  done <"$1"
  find "$work/lines" -type f -exec sha256sum {} + | sort -k 2 | cut -c 1-64 >"$work/$1"
  rm -r "$work/lines"
}

# check_links: what the files, all of them as sealed, say of each other
check_links() {
  : >"$work/allowed_signers"
  : >"$work/revoked_keys"
  set --
  while read -r _ name; do
    name=${name#./}
    case $name in
      rpts/* | image.jsonl | verify.sh | *.sig) ;;
      *) set -- "$@" --rawfile "$name" "$name" ;;
    esac
  done <"$work/sealed"
  for name in journal.jsonl operations.jsonl; do
    [ -f "$name" ] || continue
    lines_of "$name"
    set -- "$@" --rawfile "digests of $name" "$work/$name"
  done
  for name in rpts/*.jsonl; do
    [ ! -f "$name" ] || set -- "$@" "$name"
  done
  jq -nrR --rawfile seal.dsse.json seal.dsse.json "$rules$links" "$@" >"$work/findings" 2>/dev/null
  act_on manifest.json
}

if [ ! -f seal.dsse.json ] || [ ! -f policy.json ]; then
  fail "$PWD" "it holds no evidence: seal.dsse.json or policy.json is missing"
  stop_on_findings
fi
policy_sha256=$(sha256 policy.json)
[ -z "$pinned" ] || [ "$policy_sha256" = "$pinned" ] ||
  fail policy.json "its SHA-256 is '$policy_sha256', not '$pinned'"
check_seal
stop_on_findings
check_links
stop_on_findings
printf 'PASS: %s; policy.json %s\n' "$summary" "$policy_sha256"
