# GNU General Public License v3.0+ (see COPYING)
"""Issue a reconciliation pass token as APGMS does: signed over the compact JSON in issue order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..formats.canonical import sha256_hex

compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Compact JSON as ECMAScript writes it, for text, integers, and fractions from 0.0001 on."""


@dataclass(frozen=True)
class IssuedToken:
    """What ``rpt_tokens`` stores of a token."""

    payload_c14n: str
    payload_sha256: str
    signature: str


def issue_token(payload: dict[str, Any], sign: Callable[[bytes], bytes]) -> IssuedToken:
    """Return the signed token of ``payload``, whose keys stand in issue order.

    :param sign: returns the detached Ed25519 signature of a message
    """
    message = compact_json(payload)
    signature = base64.b64encode(sign(message.encode())).decode()
    return IssuedToken(message, sha256_hex(message.encode()), signature)
