# GNU General Public License v3.0+ (see COPYING)
"""The policy of a stack: who may sign what, quorums, windows, and everything that is pinned.

One canonical JSON file in the inventory, signed by the policy quorum. ``docs/policy.md`` describes
each member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCHEMA = "apgms.release/policy/1"


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
class Policy:
    """A parsed policy. Amounts are cents, durations seconds."""

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
