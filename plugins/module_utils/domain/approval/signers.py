# GNU General Public License v3.0+ (see COPYING)
"""SSH public keys and lines of ``allowed_signers``.

Formats: ``ssh-keygen(1)``, ALLOWED SIGNERS; RFC 4253 section 6.6; OpenSSH ``PROTOCOL.u2f``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ...errors import ApgmsError
from ..formats.shape import STACKS

NAMESPACES = tuple(
    f"apgms-{purpose}-{stack}" for purpose in ("approval", "intent", "policy") for stack in STACKS
)
PRINCIPAL = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
MIN_RSA_BITS = 2048

_STRING = "string"
_MPINT = "mpint"
_FIELDS = {
    "ssh-ed25519": (_STRING,),
    "ecdsa-sha2-nistp256": (_STRING, _STRING),
    "ecdsa-sha2-nistp384": (_STRING, _STRING),
    "ecdsa-sha2-nistp521": (_STRING, _STRING),
    "ssh-rsa": (_MPINT, _MPINT),
    "sk-ssh-ed25519@openssh.com": (_STRING, _STRING),
    "sk-ecdsa-sha2-nistp256@openssh.com": (_STRING, _STRING, _STRING),
}
"""Accepted key types with the fields that follow the type in a public key."""
_POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}


@dataclass(frozen=True)
class PublicKey:
    """An SSH public key. Equal keys have equal blobs, because only one encoding is accepted."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """``SHA256:...`` as ``ssh-keygen -l`` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii")
        return f"SHA256:{digest.rstrip('=')}"

    def __str__(self) -> str:
        return f"{self.kind} {base64.b64encode(self.blob).decode('ascii')}"


@dataclass(frozen=True)
class SignerLine:
    """One line of ``allowed_signers``: a key of a principal, for these namespaces and times."""

    principal: str
    namespaces: tuple[str, ...]
    valid_after: datetime | None
    valid_before: datetime | None
    key: PublicKey

    def __str__(self) -> str:
        """The line for an ``ssh-keygen`` that runs in UTC (before OpenSSH 9.1 it knows no Z)."""
        options = [f'namespaces="{",".join(self.namespaces)}"']
        if self.valid_after:
            options.append(f'valid-after="{self.valid_after:%Y%m%d%H%M%S}"')
        if self.valid_before:
            options.append(f'valid-before="{self.valid_before:%Y%m%d%H%M%S}"')
        return f"{self.principal} {','.join(options)} {self.key}"


def parse_signer_line(line: str, where: str) -> SignerLine:
    """Return a line of ``allowed_signers``, read more strictly than OpenSSH does.

    :raises ApgmsError: ``signers.malformed``, ``signers.wildcard``, ``signers.cert_authority``,
        ``signers.no_namespaces``, ``signers.unknown_namespace``, ``signers.local_time``,
        ``signers.unknown_option``, ``signers.malformed_key``, ``signers.weak_key``
    """
    match = re.fullmatch(rf"(\S+) (?:({_OPTION}(?:,{_OPTION})*) )?(\S+ \S+)(?: .*)?", line)
    if not match:
        raise _refused("malformed", where, f"{line[:80]!r} is not PRINCIPAL OPTIONS TYPE KEY")
    principal, options, key = match.groups()
    _require_principal(principal, where)
    values = _options(options or "", where)
    valid_after = _time(values.get("valid-after"), where)
    valid_before = _time(values.get("valid-before"), where)
    namespaces = _namespaces(values.get("namespaces"), where)
    return SignerLine(
        principal, namespaces, valid_after, valid_before, parse_public_key(key, where)
    )


def parse_public_key(text: str, where: str) -> PublicKey:
    """Return the key in ``TYPE BASE64``.

    :raises ApgmsError: ``signers.malformed_key``, ``signers.weak_key``
    """
    kind, _space, encoded = text.strip().partition(" ")
    try:
        key = key_of_blob(base64.b64decode(encoded.partition(" ")[0], validate=True))
    except (ValueError, binascii.Error) as error:
        raise _refused("malformed_key", where, str(error)) from None
    if key.kind != kind:
        raise _refused("malformed_key", where, f"it says {kind} and holds {key.kind}")
    if kind == "ssh-rsa" and (bits := _rsa_bits(key.blob)) < MIN_RSA_BITS:
        raise _refused("weak_key", where, f"an RSA key of {bits} bits; {MIN_RSA_BITS} are needed")
    return key


_OPTION = r'[A-Za-z-]+(?:="[^"\\]*")?'
_MENDS = {
    "malformed": 'write PRINCIPAL namespaces="NAMESPACE,..." TYPE KEY, as ssh-keygen(1) describes',
    "wildcard": "name each signer by itself, one line for each key",
    "cert_authority": "list the signer's own public key instead of an authority's",
    "no_namespaces": f'add namespaces="..." with what this key is for: {", ".join(NAMESPACES)}',
    "unknown_namespace": f"use one or more of {', '.join(NAMESPACES)}",
    "local_time": "write times in UTC: YYYYMMDDZ or YYYYMMDDHHMM[SS]Z",
    "unknown_option": "use namespaces, valid-after and valid-before, each once",
    "malformed_key": "copy the signer's .pub file: ed25519, ecdsa, rsa, or FIDO (sk-) keys",
    "weak_key": "ssh-keygen -t ed25519",
}


def _refused(name: str, where: str, why: str) -> ApgmsError:
    return ApgmsError(
        f"signers.{name}", "A signer's entry is refused", where=where, why=why, mend=_MENDS[name]
    )


def _require_principal(principal: str, where: str) -> None:
    if re.search(r"[*?!,]", principal):
        raise _refused("wildcard", where, f"the principal {principal!r} can match several names")
    if not PRINCIPAL.fullmatch(principal):
        raise _refused("malformed", where, f"{principal[:80]!r} is not a principal")


def _options(text: str, where: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in re.findall(r'([A-Za-z-]+)(?:="([^"]*)")?', text):
        if name.lower() == "cert-authority":
            raise _refused("cert_authority", where, "cert-authority would admit keys unseen")
        if name not in ("namespaces", "valid-after", "valid-before") or name in values:
            raise _refused("unknown_option", where, f"option {name!r} is unknown or repeated")
        values[name] = value
    return values


def _namespaces(text: str | None, where: str) -> tuple[str, ...]:
    if not text:
        raise _refused("no_namespaces", where, "without namespaces= a key signs for any purpose")
    names = tuple(text.split(","))
    for name in names:
        if name not in NAMESPACES:
            raise _refused("unknown_namespace", where, f"{name!r} is no namespace of this project")
    return names


def _time(text: str | None, where: str) -> datetime | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?Z", text):
        raise _refused("local_time", where, f"{text!r} is not a time in UTC")
    form = {9: "%Y%m%dZ", 13: "%Y%m%d%H%MZ", 15: "%Y%m%d%H%M%SZ"}[len(text)]
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        raise _refused("local_time", where, f"{text!r} is not a date") from None


def key_of_blob(blob: bytes) -> PublicKey:
    """Return the key in an SSH key blob.

    :raises ValueError: where the blob is malformed or of a kind that is not accepted
    """
    (name,) = ssh_strings(blob, 1, exact=False)
    kind = name.decode("ascii", "replace")
    if kind not in _FIELDS:
        raise ValueError(f"{kind!r} keys are not accepted")
    fields = ssh_strings(blob, 1 + len(_FIELDS[kind]))[1:]
    for form, field in zip(_FIELDS[kind], fields, strict=True):
        if form == _MPINT and not _minimal(field):
            raise ValueError("a number of the key is not encoded in the shortest form")
    if not _well_formed_point(kind, fields):
        raise ValueError("the point of the key is malformed")
    return PublicKey(kind, blob)


def _well_formed_point(kind: str, fields: list[bytes]) -> bool:
    curve = kind.partition("@")[0].rpartition("-")[2]
    if curve == "ed25519":
        return len(fields[0]) == 32
    if curve in _POINT_BYTES:
        uncompressed = fields[1][:1] == b"\x04" and len(fields[1]) == _POINT_BYTES[curve]
        return fields[0] == curve.encode("ascii") and uncompressed
    return True


def _minimal(number: bytes) -> bool:
    return (
        bool(number)
        and (number[0] > 0 or (len(number) > 1 and number[1] > 127))
        and (number[0] < 128)
    )


def _rsa_bits(blob: bytes) -> int:
    return int.from_bytes(ssh_strings(blob, 3)[2], "big").bit_length()


def ssh_strings(data: bytes, count: int, *, exact: bool = True) -> list[bytes]:
    """Return ``count`` length-prefixed strings (RFC 4251 section 5)."""
    found = []
    for _number in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            raise ValueError("it is cut short")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if exact and data:
        raise ValueError("bytes follow its end")
    return found
