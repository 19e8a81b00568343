# GNU General Public License v3.0+ (see COPYING)
"""People with keys, a policy in force, a database, and an approved manifest."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import namespace
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approvals import (
    review_approvals,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.review import Review
from services.keys import make_keys, make_ssh_key, policy_document, write_policy
from tests.approvals import NOW, make_manifest, run_of
from tests.fuzz.mutations import Pen

OTHERS = {
    "audrey2": ("Audrey Auditor", ""),
    "olivia2": ("Olivia Operator", ""),
    "former": ("Fred Former", ""),
    "early": ("Eve Early", 'valid-after="20260303Z",'),
    "late": ("Lars Late", 'valid-before="20260301Z",'),
    "narrow": ("Nora Narrow", ""),
}
"""Signers beside those of services/keys.py: person, and options of their key's line."""
Pair = tuple[bytes, bytes | None]
"""A statement's file and its signature file; None where there is none."""


class World:
    """Version 2 of a policy is in force; one prod release may be approved."""

    def __init__(self, connection: Any, folder: Path) -> None:
        self.connection = connection
        self.folder = folder
        self.keys = make_keys(folder / "keys", "prod")
        self.weak_key = public_key(make_ssh_key(folder / "weak", "-t", "rsa", "-b", "1024"))
        first = self._policy()
        path = write_policy(self.keys, folder, first)
        digest = load_policy(connection, str(path), "prod").digest
        self.document = {**first, "version": 2, "previous": digest}
        self.path = write_policy(self.keys, folder, self.document)
        self.policy = load_policy(connection, str(self.path), "prod")
        names = ["operator", "auditor", "approver", "stranger", *OTHERS]
        self.pens = {name: Pen(make_ssh_key(self.keys.person(name))) for name in names}
        self.manifest = make_manifest()

    def statement(self, kind: str, signer: str = "auditor", **changes: Any) -> dict[str, Any]:
        """Return the document of a valid statement; ``changes`` replace members."""
        checksum = "cd" * 32 if kind == "prototype" else self.manifest.checksum
        document = {
            "schema": "apgms.release/statement/1",
            "kind": kind,
            "stack": "proto" if kind == "prototype" else "prod",
            "signer": signer,
            "not_before": stamp(NOW - timedelta(minutes=1)),
            "expires_at": stamp(NOW + timedelta(minutes=60)),
            "nonce": secrets.token_hex(16),
            "reason": "as agreed",
            "subject": {"manifest_sha256": checksum, **run_of(self.manifest)},
        }
        return {**document, **changes}

    def signed(self, document: dict[str, Any], pen: str | None = None) -> tuple[bytes, bytes]:
        """Return a statement's bytes with the signature of its signer, or of ``pen``."""
        data = canonical(document)
        space = namespace(document["kind"], document["stack"])
        return data, self.pens[pen or document["signer"]].sign(space, data)

    def put(self, pairs: Sequence[Pair]) -> list[str]:
        """Make ``pairs`` the content of the folder of statements; return their paths."""
        shutil.rmtree(self.statements, ignore_errors=True)
        Path(self.statements).mkdir()
        names = []
        for number, (data, signature) in enumerate(pairs):
            path = Path(self.statements) / f"{number:04}.json"
            path.write_bytes(data)
            if signature is not None:
                path.with_name(f"{path.name}.sig").write_bytes(signature)
            names.append(str(path))
        return names

    @property
    def statements(self) -> str:
        return str(self.folder / "statements")

    def reviews(self) -> tuple[Review, Review]:
        """Return what counts as prototype and as release approval in the folder."""
        return review_approvals(
            self.connection, self.policy, self.statements, self.manifest, "operator", NOW
        )

    def _policy(self) -> dict[str, Any]:
        document = policy_document(self.keys)
        for name, (person, options) in OTHERS.items():
            key = public_key(make_ssh_key(self.keys.person(name)))
            space = "apgms-policy-prod" if name == "narrow" else "apgms-approval-prod"
            document["allowed_signers"].append(f'{name} {options}namespaces="{space}" {key}')
            document["signers"][name] = {"person": person, "roles": [], "kinds": ["release"]}
            if name == "former":
                document["revoked_keys"].append(key)
        return document


def public_key(key: Path) -> str:
    """Return the public half of an SSH key as ``TYPE BASE64``."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def stamp(moment: datetime) -> str:
    """Return a time as statements write it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def reason_of(act: Callable[[], object]) -> str | None:
    """Return the reason for which ``act`` refuses; None where it accepts."""
    try:
        act()
    except ApgmsError as error:
        return error.reason
    return None
