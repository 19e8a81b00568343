# GNU General Public License v3.0+ (see COPYING)
"""Make the keys and the signed policy of a stack on this machine, for demos and tests.

    PYTHONPATH=.collections python -m services.keys FOLDER STACK --gateway HOST:PORT

Nothing here is a secret of anybody: every run in a new folder makes new keys.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    SCHEMA,
    namespace,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)

PEOPLE = {
    "operator": ("Olivia Operator", "operator", ["intent"]),
    "auditor": (
        "Audrey Auditor",
        "auditor",
        ["prototype", "release", "rehearsal", "override", "rollback", "lock_break", "restore",
         "policy"],
    ),
    "approver": (
        "Arthur Approver",
        "approver",
        ["release", "rehearsal", "override", "rollback", "lock_break", "restore", "policy"],
    ),
}  # fmt: skip
"""Principal to person, role, and kinds of statements that the person may sign."""
OPEN_CALENDAR = {
    "zone": "UTC",
    "calendar": [
        {"name": "any day", "opens": "00:00", "minutes": 1440,
         "weekdays": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}
    ],
    "blackouts": [],
}  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """The key files of a stack. SSH keys belong to people, the others to one stack."""

    folder: Path
    stack: str

    def person(self, principal: str) -> Path:
        """The SSH private key of a person; ``.pub`` beside it."""
        return self.folder / "people" / principal

    @property
    def cosign_key(self) -> Path:
        """The auditor's Ed25519 key that cosigns checkpoints, PEM."""
        return self.folder / "people" / "auditor-cosign.pem"

    @property
    def manifest_key(self) -> Path:
        """ECDSA P-256, PEM."""
        return self.folder / self.stack / "manifest.pem"

    @property
    def log_key(self) -> Path:
        """Ed25519, PEM."""
        return self.folder / self.stack / "log.pem"

    @property
    def gateway_key(self) -> Path:
        """The sandbox gateway's receipt key: ECDSA P-256, PEM."""
        return self.folder / self.stack / "gateway.pem"

    @property
    def rpt_key(self) -> Path:
        """The issuer's Ed25519 key as a 32-byte seed in base64."""
        return self.folder / self.stack / "rpt.seed"

    @property
    def rpt_kid(self) -> str:
        """The key id that issued tokens carry."""
        return f"rpt-{self.stack}-1"


def make_keys(folder: Path, stack: str) -> Keys:
    """Return the keys of ``stack`` below ``folder``; those that are missing are made."""
    keys = Keys(folder, stack)
    (folder / "people").mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / stack).mkdir(exist_ok=True, mode=0o700)
    for principal in PEOPLE:
        make_ssh_key(keys.person(principal))
    for path in (keys.cosign_key, keys.log_key):
        _make_pem(path, ed25519.Ed25519PrivateKey.generate())
    for path in (keys.manifest_key, keys.gateway_key):
        _make_pem(path, ec.generate_private_key(ec.SECP256R1()))
    if not keys.rpt_key.exists():
        seed = ed25519.Ed25519PrivateKey.generate().private_bytes_raw()
        _write_private(keys.rpt_key, base64.b64encode(seed) + b"\n")
    return keys


def make_ssh_key(path: Path, *options: str) -> Path:
    """Make an SSH key without a passphrase; ``options`` are ssh-keygen's, ed25519 by default."""
    if not path.exists():
        command = ["ssh-keygen", "-q", *(options or ("-t", "ed25519")), "-N", "", "-C", path.name]
        subprocess.run([*command, "-f", str(path)], check=True)
    return path


def policy_document(
    keys: Keys,
    *,
    environment: str = "sandbox",
    hosts: tuple[str, ...] = ("127.0.0.1:1",),
    **changes: Any,
) -> dict[str, Any]:
    """Return a complete policy of the stack; ``changes`` replace its members."""
    document = {
        "schema": SCHEMA,
        "stack": keys.stack,
        "version": 1,
        "previous": None,
        "signers": {
            principal: {"person": person, "roles": [role], "kinds": kinds}
            for principal, (person, role, kinds) in PEOPLE.items()
        },
        "allowed_signers": [signer_line(keys, principal) for principal in PEOPLE],
        "revoked_keys": [],
        "quorums": {
            "prototype": {"signatures": 1, "roles": ["auditor"]},
            "release": {"signatures": 1, "roles": ["auditor"]},
            "rehearsal": {"signatures": 1, "roles": []},
            "override": {"signatures": 1, "roles": []},
            "rollback": {"signatures": 0, "roles": []},
            "lock_break": {"signatures": 1, "roles": []},
            "restore": {"signatures": 1, "roles": ["auditor"]},
            "policy": {"signatures": 2, "roles": ["auditor"]},
        },
        "thresholds": {
            "dual_approval_cents": "10000000",
            "approval_minutes": 240,
            "prototype_minutes": 43200,
            "max_token_age_seconds": 2592000,
        },
        "windows": OPEN_CALENDAR,
        "gateway": {
            "environments": [environment],
            "hosts": list(hosts),
            "keys": _pem_by_id(keys.gateway_key),
        },
        "log": {
            "origin": f"apgms.local/{keys.stack}",
            "key": public_pem(keys.log_key),
            "cosigners": {"auditor": public_pem(keys.cosign_key)},
        },
        "rpt_keys": {keys.rpt_kid: rpt_public_base64(keys)},
        "manifest_keys": _pem_by_id(keys.manifest_key),
    }
    return {**document, **changes}


def write_policy(
    keys: Keys, folder: Path, document: dict[str, Any], signers: tuple[str, ...] | None = None
) -> Path:
    """Write ``policy.json`` with its signatures; return its path.

    :param signers: principals that sign it; those who may, if not given
    """
    path = folder / "policy.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical(document))
    for old in folder.glob("policy.json.*.sig"):
        old.unlink()
    if signers is None:
        signers = tuple(name for name, (_, _, kinds) in PEOPLE.items() if "policy" in kinds)
    for principal in signers:
        signature = ssh_sign(
            keys.person(principal), namespace("policy", document["stack"]), path.read_bytes()
        )
        path.with_name(f"{path.name}.{principal}.sig").write_bytes(signature)
    return path


def ssh_sign(key: Path, name: str, message: bytes) -> bytes:
    """Return what ``ssh-keygen -Y sign`` makes of ``message`` in the namespace ``name``."""
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", name, "-f", str(key)]
    done = subprocess.run(command, input=message, capture_output=True, check=True)
    return done.stdout


def signer_line(keys: Keys, principal: str) -> str:
    """Return the line of ``allowed_signers`` of a person."""
    kinds = PEOPLE[principal][2]
    names = {namespace(kind, "proto" if kind == "prototype" else keys.stack) for kind in kinds}
    kind, blob = keys.person(principal).with_suffix(".pub").read_text().split()[:2]
    return f'{principal} namespaces="{",".join(sorted(names))}" {kind} {blob}'


def public_pem(private: Path) -> str:
    """Return the public half of a PEM key."""
    key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def rpt_public_base64(keys: Keys) -> str:
    """Return the RPT issuer's public key: raw 32 bytes in base64."""
    seed = base64.b64decode(keys.rpt_key.read_bytes())
    public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return base64.b64encode(public.public_bytes_raw()).decode()


def _pem_by_id(private: Path) -> dict[str, str]:
    pem = public_pem(private)
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    return {hashlib.sha256(der).hexdigest(): pem}


def _make_pem(path: Path, key: PrivateKeyTypes) -> None:
    if path.exists():
        return
    _write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the keys and the policy are written")
    parser.add_argument("stack", choices=["proto", "prod"])
    parser.add_argument("--gateway", default="127.0.0.1:1", help="HOST:PORT of the gateway")
    parser.add_argument("--environment", default="sandbox", help="what the gateway says it is")
    options = parser.parse_args()
    keys = make_keys(options.folder, options.stack)
    document = policy_document(keys, environment=options.environment, hosts=(options.gateway,))
    print(write_policy(keys, options.folder / options.stack, document))


if __name__ == "__main__":
    main()
