# GNU General Public License v3.0+ (see COPYING)
"""People with keys, a policy, a folder of statements and a manifest to approve, for tests."""

from __future__ import annotations

import dataclasses
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    Policy,
    namespace,
    parse_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import (
    Statement,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Batch,
    Flags,
    Ledger,
    Manifest,
)
from services.keys import Keys, policy_document, ssh_sign, write_policy

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
SHA = "ab" * 32


def make_manifest(**changes: Any) -> Manifest:
    """Return a small prod release of $1,234.56."""
    manifest = Manifest(
        stack="prod",
        purpose="release",
        flags=Flags(seed=False, smoke=False, dry_run=False),
        built_at="2026-03-02T09:00:00.000Z",
        release_window="202603020000",
        submission_id="prod-202603020000",
        rates_version="2024-25",
        rates_bundle_sha256=SHA,
        batches=(Batch("GST", "2025-09", 1, 123456, SHA, SHA),),
        ledger=Ledger("apgms.local/prod", 1, SHA, SHA, SHA, {"gst": SHA}),
        image_sha256=SHA,
        previous=None,
        collection_version="0.1.0",
        source_revision="0123abcd",
    )
    return dataclasses.replace(manifest, **changes)


def run_of(manifest: Manifest) -> dict[str, str]:
    """Return the members of a subject that prototype and release have in common."""
    return {
        "rates_version": manifest.rates_version,
        "source_revision": manifest.source_revision,
        "collection_version": manifest.collection_version,
    }


def place_no_small_file(path: Path, kind: str) -> None:
    """Put a pipe, a device or a huge file in the place of a small one."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)


@dataclass(frozen=True)
class Desk:
    """A policy and a folder of statements that people sign into."""

    keys: Keys
    folder: Path

    def policy(self, **changes: Any) -> Policy:
        """Return the policy with changes to its members."""
        path = write_policy(self.keys, self.folder, policy_document(self.keys, **changes), ())
        return parse_policy(path.read_bytes(), str(path))

    @property
    def statements(self) -> str:
        return str(self.folder / "statements")

    def sign(
        self,
        kind: str,
        signer: str,
        subject: dict[str, Any],
        *,
        key: Path | None = None,
        space: str | None = None,
        **changes: Any,
    ) -> Path:
        """Write a signed statement; ``changes`` replace members; return its path."""
        stack = "proto" if kind == "prototype" else self.keys.stack
        statement = Statement(
            kind=kind,
            stack=stack,
            signer=signer,
            not_before=NOW - timedelta(minutes=1),
            expires_at=NOW + timedelta(minutes=60),
            nonce=secrets.token_hex(16),
            reason="as agreed",
            subject=subject,
        )
        statement = dataclasses.replace(statement, **changes)
        path = Path(self.statements) / f"{kind}-{statement.nonce[:8]}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(statement.to_bytes())
        signature = ssh_sign(
            key or self.keys.person(signer),
            space or namespace(kind, statement.stack),
            path.read_bytes(),
        )
        path.with_name(f"{path.name}.sig").write_bytes(signature)
        return path

    def approve_prototype(self, manifest: Manifest, **changes: Any) -> Path:
        subject = {"manifest_sha256": "cd" * 32, **run_of(manifest)}
        return self.sign("prototype", "auditor", subject, **changes)

    def approve_release(self, manifest: Manifest, signer: str = "auditor", **changes: Any) -> Path:
        subject = {"manifest_sha256": manifest.checksum, **run_of(manifest)}
        return self.sign("release", signer, subject, **changes)
