# GNU General Public License v3.0+ (see COPYING)
"""The signed verdict on a manifest: an in-toto Statement v1 in a DSSE envelope.

Formats: https://github.com/in-toto/attestation (Statement v1), https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ApgmsError
from . import dsse
from .canonical import canonical, parse_canonical
from .manifest import Manifest

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://github.com/apgms/release/attestation/manifest/v1"


def attest(
    manifest: Manifest, verdict: Mapping[str, Any], key_id: str, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return the content of ``manifest.dsse.json``.

    :param verdict: what was found when the rows were verified; JSON values
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "manifest.json", "digest": {"sha256": manifest.checksum}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "stack": manifest.stack,
            "purpose": manifest.purpose,
            "submission_id": manifest.submission_id,
            "rates_version": manifest.rates_version,
            "source_revision": manifest.source_revision,
            "verdict": dict(verdict),
        },
    }
    return dsse.seal(PAYLOAD_TYPE, canonical(statement), key_id, sign)


def read_attestation(
    data: bytes, keys: Mapping[str, str], checksum: str, *, where: str
) -> dict[str, Any]:
    """Return the predicate of a signed verdict on the manifest with this checksum.

    :param keys: the policy's ``manifest_keys``
    :raises ApgmsError: ``attestation.malformed``, ``attestation.unpinned_key``,
        ``attestation.bad_signature``, ``attestation.other_subject``
    """
    opened = dsse.open_envelope(data, PAYLOAD_TYPE, keys, what="attestation", where=where)
    statement = _statement(opened.payload)
    subject = [{"name": "manifest.json", "digest": {"sha256": checksum}}]
    found = {name: statement.get(name) for name in ("_type", "predicateType", "subject")}
    if found != {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "subject": subject}:
        raise ApgmsError(
            "attestation.other_subject",
            "A signed verdict is about something else",
            where=where,
            why=f"it speaks of {found}, expected the manifest {checksum}",
            mend="take manifest.dsse.json from the same folder as manifest.json",
        )
    predicate: dict[str, Any] = statement["predicate"]
    return predicate


def _statement(payload: bytes) -> dict[str, Any]:
    try:
        statement = parse_canonical(payload)
    except ValueError:
        return {}
    return statement if isinstance(statement, dict) else {}
