# GNU General Public License v3.0+ (see COPYING)
"""The policy of a stack: who may sign what, quorums, windows, and everything that is pinned.

One canonical JSON file in the inventory, signed by the policy quorum. ``docs/policy.md`` describes
each member.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import ApgmsError
from ..formats.canonical import parse_canonical, sha256_hex
from ..formats.shape import CENTS, HEX_SHA256, STACK, TEXT, MapOf, require_shape
from .signers import PRINCIPAL, PublicKey, SignerLine, parse_public_key, parse_signer_line
from .window import parse_calendar

SCHEMA = "apgms.release/policy/1"
APPROVAL_KINDS = (
    "prototype",
    "release",
    "rehearsal",
    "override",
    "rollback",
    "lock_break",
    "restore",
)
"""Kinds of statements that others than the operator sign, each with a quorum."""
KINDS = (*APPROVAL_KINDS, "intent", "policy")
"""What a signer may be allowed to sign."""


@dataclass(frozen=True)
class GatewayPins:
    """What a stack's gateway must be: environments, hosts (host:port), receipt keys by key id."""

    environments: tuple[str, ...]
    hosts: tuple[str, ...]
    keys: dict[str, str]
    """Key id (SHA-256 of the DER public key) to PEM."""


@dataclass(frozen=True)
class LogPins:
    """The ledger log: origin, its Ed25519 public key PEM, and who may cosign (name to PEM)."""

    origin: str
    key: str
    cosigners: dict[str, str]


@dataclass(frozen=True)
class Signer:
    """Somebody who may sign: one person can have several principals, but counts once."""

    principal: str
    person: str
    roles: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def person_key(self) -> str:
        """The person's name, the same for every way of writing it, with lookalike letters too."""
        name = unicodedata.normalize("NFKC", self.person).casefold()
        visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
        return " ".join(visible.translate(_LOOKALIKES).split())


@dataclass(frozen=True)
class Quorum:
    """How many persons must sign, and which roles must be among them."""

    signatures: int
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A parsed policy. Amounts are cents; durations are seconds where the name says nothing."""

    stack: str
    version: int
    gateway: GatewayPins
    log: LogPins
    rpt_keys: dict[str, str]
    """RPT public keys by key id: raw 32 bytes in base64."""
    manifest_keys: dict[str, str]
    """Keys that sign manifests and verdicts (DSSE) by key id: PEM, ECDSA P-256."""
    max_token_age_seconds: int
    dual_approval_cents: int
    document: dict[str, Any]
    """The whole document as parsed."""
    digest: str
    """SHA-256 of the canonical bytes, hexadecimal."""
    previous: str | None
    """Digest of the policy before this one."""
    signers: dict[str, Signer]
    allowed_signers: tuple[SignerLine, ...]
    revoked_keys: tuple[PublicKey, ...]
    quorums: dict[str, Quorum]
    approval_minutes: int
    """The longest validity of a statement; prototype approvals have their own."""
    prototype_minutes: int


_LOOKALIKES = str.maketrans(
    "\u0430\u0435\u0441\u043e\u0440\u0445\u0443\u0456\u0458\u0455"
    "\u04bb\u0501\u04cf\u051b\u051d\u0432\u043a\u043c\u043d\u0442"
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"
    "l1|0",
    "aecopxyijshdiqwbkmhtabezhikmnoptyxiiio",
)
"""Cyrillic, Greek and ASCII characters to the Latin letter that a reader takes them for."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----\n")
_RAW_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_KIND = re.compile("|".join(KINDS))
_QUORUM = {"signatures": int, "roles": [TEXT]}
_SHAPE = {
    "schema": re.compile(re.escape(SCHEMA)),
    "stack": STACK,
    "version": int,
    "previous": (HEX_SHA256, None),
    "signers": MapOf(PRINCIPAL, {"person": TEXT, "roles": [TEXT], "kinds": [_KIND]}),
    "allowed_signers": [str],
    "revoked_keys": [str],
    "quorums": dict.fromkeys((*APPROVAL_KINDS, "policy"), _QUORUM),
    "thresholds": {
        "dual_approval_cents": CENTS,
        "approval_minutes": int,
        "prototype_minutes": int,
        "max_token_age_seconds": int,
    },
    "windows": dict,
    "gateway": {"environments": [_NAME], "hosts": [_NAME], "keys": MapOf(_NAME, _PEM)},
    "log": {"origin": _NAME, "key": _PEM, "cosigners": MapOf(_NAME, _PEM)},
    "rpt_keys": MapOf(_NAME, _RAW_KEY),
    "manifest_keys": MapOf(_NAME, _PEM),
}


def parse_policy(data: bytes, where: str) -> Policy:
    """Return the policy in the bytes of a ``policy.json``.

    :param where: the file's path, for messages
    :raises ApgmsError: ``policy.malformed``, ``policy.shared_key``, ``policy.unlisted_signer``,
        ``policy.unreachable_quorum``, and the ``signers.*`` reasons of :mod:`.signers`
    """
    document = _document(data, where)
    policy = _policy(document, sha256_hex(data), where)
    _require_own_keys(policy, where)
    _require_reachable_quorums(policy, where)
    return policy


def missing_from_quorum(
    policy: Policy, kind: str, principals: Iterable[str], signatures: int = 0
) -> str | None:
    """Return in words what ``principals`` lack of the quorum of ``kind``; ``None`` if nothing.

    :param signatures: a number of persons to ask for, where the quorum asks for fewer
    """
    quorum = policy.quorums[kind]
    signers = [policy.signers[principal] for principal in principals]
    persons = {signer.person_key for signer in signers}
    needed = max(quorum.signatures, signatures)
    roles = sorted(set(quorum.roles) - {role for signer in signers for role in signer.roles})
    if len(persons) < needed:
        return f"{len(persons)} of {needed} persons signed"
    return f"nobody with the role {' or '.join(roles)} signed" if roles else None


def namespace(kind: str, stack: str) -> str:
    """Return the SSH signature namespace of a kind of statement about ``stack``."""
    purpose = kind if kind in ("intent", "policy") else "approval"
    return f"apgms-{purpose}-{stack}"


def _document(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = parse_canonical(data)
        require_shape(document, _SHAPE, "the policy")
        _require_positive(document)
        parse_calendar(document["windows"])
    except (ValueError, RecursionError) as error:
        raise _malformed(where, str(error)) from None
    members: dict[str, Any] = document
    return members


def _require_positive(document: dict[str, Any]) -> None:
    numbers = {"version": document["version"], **document["thresholds"]}
    numbers |= {f"signatures for {kind}": quorum["signatures"]
                for kind, quorum in document["quorums"].items()
                if kind != "rollback"}  # fmt: skip
    for name, number in numbers.items():
        if int(number) < 1:
            raise ValueError(f"{name} is {number}; at least 1 is needed")
    if (document["version"] == 1) != (document["previous"] is None):
        raise ValueError("previous is null in version 1 and the digest before it in all others")


def _policy(document: dict[str, Any], digest: str, where: str) -> Policy:
    thresholds = document["thresholds"]
    gateway = document["gateway"]
    return Policy(
        stack=document["stack"],
        version=document["version"],
        gateway=GatewayPins(
            tuple(gateway["environments"]), tuple(gateway["hosts"]), gateway["keys"]
        ),
        log=LogPins(**document["log"]),
        rpt_keys=document["rpt_keys"],
        manifest_keys=document["manifest_keys"],
        max_token_age_seconds=thresholds["max_token_age_seconds"],
        dual_approval_cents=int(thresholds["dual_approval_cents"]),
        document=document,
        digest=digest,
        previous=document["previous"],
        signers={
            name: Signer(name, entry["person"], tuple(entry["roles"]), tuple(entry["kinds"]))
            for name, entry in document["signers"].items()
        },
        allowed_signers=tuple(
            parse_signer_line(line, f"{where}, allowed_signers, line {number}")
            for number, line in enumerate(document["allowed_signers"], start=1)
        ),
        revoked_keys=tuple(
            parse_public_key(key, f"{where}, revoked_keys, line {number}")
            for number, key in enumerate(document["revoked_keys"], start=1)
        ),
        quorums={
            kind: Quorum(quorum["signatures"], tuple(quorum["roles"]))
            for kind, quorum in document["quorums"].items()
        },
        approval_minutes=thresholds["approval_minutes"],
        prototype_minutes=thresholds["prototype_minutes"],
    )


def _require_own_keys(policy: Policy, where: str) -> None:
    owners: dict[PublicKey, str] = {}
    for line in policy.allowed_signers:
        if line.principal not in policy.signers:
            raise ApgmsError(
                "policy.unlisted_signer",
                "A line of allowed_signers names nobody of the policy",
                where=f"{where}, allowed_signers",
                why=f"{line.principal!r} is not among its signers",
                mend="add the signer with person, roles and kinds, or take the line out",
            )
        owner = owners.setdefault(line.key, line.principal)
        if owner != line.principal:
            raise ApgmsError(
                "policy.shared_key",
                "Two signers of the policy share one key",
                where=f"{where}, allowed_signers",
                why=f"{owner} and {line.principal} both have {line.key.fingerprint}: they are one",
                mend="give each signer a key of their own: ssh-keygen -t ed25519",
            )


def _require_reachable_quorums(policy: Policy, where: str) -> None:
    for kind, quorum in policy.quorums.items():
        able = [signer for signer in policy.signers.values() if kind in signer.kinds]
        persons = {signer.person_key for signer in able}
        missing = set(quorum.roles) - {role for signer in able for role in signer.roles}
        if len(persons) < quorum.signatures or missing:
            raise ApgmsError(
                "policy.unreachable_quorum",
                f"Nobody could ever approve a {kind}",
                where=f"{where}, quorums, {kind}",
                why=f"{quorum.signatures} persons with roles {sorted(quorum.roles)} are needed;"
                f" {len(persons)} may sign it, and these roles are missing: {sorted(missing)}",
                mend=f"add {kind} to the kinds of enough signers",
            )


def _malformed(where: str, why: str) -> ApgmsError:
    return ApgmsError(
        "policy.malformed",
        "The policy cannot be read",
        where=where,
        why=why,
        mend="write it as docs/policy.md describes; jq -cjS . draft.json > policy.json makes the"
        " canonical form",
    )
