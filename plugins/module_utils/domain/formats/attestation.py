# GNU General Public License v3.0+ (see COPYING)
"""Signed verdicts on files: an in-toto Statement v1 in a DSSE envelope with one signature.

Formats: https://github.com/in-toto/attestation (Statement v1) and :mod:`.dsse`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ApgmsError
from ..release.manifest import Manifest
from . import dsse
from .canonical import canonical, parse_canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
VERDICT = "https://github.com/apgms/release/attestation/verdict/v1"
"""Predicate type of ``manifest.dsse.json``: what was found when the rows were verified."""
SEAL = "https://github.com/apgms/release/attestation/seal/v1"
"""Predicate type of an archive's ``seal.dsse.json``; its subjects are all other files."""


def attest(
    files: Mapping[str, str],
    predicate_type: str,
    predicate: Mapping[str, Any],
    key_id: str,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """Return the signed statement about ``files``.

    :param files: name to SHA-256 in hexadecimal
    :param predicate: JSON values
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())
        ],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    return dsse.seal(PAYLOAD_TYPE, canonical(statement), key_id, sign)


def verdict_predicate(manifest: Manifest, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``manifest.dsse.json`` says of the manifest.

    :param verdict: JSON values
    """
    return {
        "stack": manifest.stack,
        "purpose": manifest.purpose,
        "submission_id": manifest.submission_id,
        "rates_version": manifest.rates_version,
        "source_revision": manifest.source_revision,
        "verdict": dict(verdict),
    }


def read_attestation(
    data: bytes,
    keys: Mapping[str, str],
    files: Mapping[str, str],
    predicate_type: str,
    *,
    where: str,
) -> dict[str, Any]:
    """Return the predicate of a signed statement about exactly ``files``.

    :param keys: the policy's ``manifest_keys``
    :raises ApgmsError: ``attestation.malformed``, ``attestation.unpinned_key``,
        ``attestation.bad_signature``, ``attestation.other_subject``
    """
    opened = dsse.open_envelope(data, PAYLOAD_TYPE, keys, what="attestation", where=where)
    statement = _statement(opened.payload)
    expected = {
        "_type": STATEMENT_TYPE,
        "predicateType": predicate_type,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())
        ],
    }
    found = {name: statement.get(name) for name in expected}
    predicate = statement.get("predicate")
    if found != expected or not isinstance(predicate, dict):
        raise ApgmsError(
            "attestation.other_subject",
            "A signed verdict is about something else",
            where=where,
            why=f"it speaks of {found}, expected {expected}",
            mend="take the signed verdict from the same folder as the files",
        )
    return predicate


def _statement(payload: bytes) -> dict[str, Any]:
    try:
        statement = parse_canonical(payload)
    except ValueError:
        return {}
    return statement if isinstance(statement, dict) else {}
