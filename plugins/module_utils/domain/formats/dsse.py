# GNU General Public License v3.0+ (see COPYING)
"""DSSE envelopes (https://github.com/secure-systems-lab/dsse, protocol version 1), one signature.

The file of an envelope holds its RFC 8785 bytes. The signature covers the pre-authentication
encoding of payload type and payload: ECDSA P-256 over SHA-256 (DER), or Ed25519.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import ApgmsError
from ...libraries import cryptography_exceptions, ec, ed25519, hashes, serialization
from .canonical import canonical, parse_canonical
from .shape import require_shape

MEND = "get the document again from who signed it; a signed document is never repaired by hand"


@dataclass(frozen=True)
class Opened:
    """The payload of an envelope whose signature holds, and who signed it."""

    payload: bytes
    key_id: str


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that an envelope's signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key_id: str, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the envelope of ``payload``, signed by ``sign``."""
    signature = sign(pre_authentication_encoding(payload_type, payload))
    return canonical(
        {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def open_envelope(
    data: bytes, payload_type: str, keys: Mapping[str, str], *, what: str, where: str
) -> Opened:
    """Return the payload of an envelope signed by one of ``keys`` (key id to public PEM).

    :param what: the kind of document in one word, such as ``receipt``, for reason and message
    :param where: the file or address of the envelope, for the message
    :raises ApgmsError: ``WHAT.malformed``, ``WHAT.unpinned_key``, ``WHAT.bad_signature``
    """
    try:
        payload, key_id, signature = _parse(data, payload_type)
    except ValueError as error:
        raise _malformed(what, where, str(error)) from None
    if key_id not in keys:
        raise _unpinned_key(what, where, key_id, keys)
    if not signature_holds(
        keys[key_id], signature, pre_authentication_encoding(payload_type, payload)
    ):
        raise _bad_signature(what, where, key_id)
    return Opened(payload, key_id)


def signature_holds(public_pem: str, signature: bytes, message: bytes) -> bool:
    """Return whether ``signature`` is one of the key's over ``message``."""
    key = serialization.load_pem_public_key(public_pem.encode())
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except cryptography_exceptions.InvalidSignature:
        return False
    return True


_SHAPE = {"payload": str, "payloadType": str, "signatures": [{"keyid": str, "sig": str}]}


def _parse(data: bytes, payload_type: str) -> tuple[bytes, str, bytes]:
    envelope = parse_canonical(data)
    require_shape(envelope, _SHAPE, "the envelope")
    if envelope["payloadType"] != payload_type:
        raise ValueError(f"its payload type is {envelope['payloadType']!r}, not {payload_type!r}")
    if len(envelope["signatures"]) != 1:
        raise ValueError("it does not have exactly one signature")
    [signature] = envelope["signatures"]
    return _base64(envelope["payload"]), signature["keyid"], _base64(signature["sig"])


def _base64(text: str) -> bytes:
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("payload or signature is base64 with stray bits")
    return decoded


def _malformed(what: str, where: str, why: str) -> ApgmsError:
    return ApgmsError(
        f"{what}.malformed",
        f"A {what} cannot be read as a signed document",
        where=where,
        why=why,
        mend=MEND,
    )


def _unpinned_key(what: str, where: str, key_id: str, keys: Mapping[str, str]) -> ApgmsError:
    return ApgmsError(
        f"{what}.unpinned_key",
        f"A {what} is signed by a key that the policy does not pin",
        where=where,
        why=f"its key is {key_id}, pinned are {', '.join(sorted(keys)) or 'none'}",
        mend="keep the document and ask who sent it; pin a new key only in a signed policy",
    )


def _bad_signature(what: str, where: str, key_id: str) -> ApgmsError:
    return ApgmsError(
        f"{what}.bad_signature",
        f"The signature of a {what} does not hold",
        where=where,
        why=f"the document was altered, or not signed by {key_id}",
        mend=MEND,
    )
