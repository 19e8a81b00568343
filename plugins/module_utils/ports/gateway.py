# GNU General Public License v3.0+ (see COPYING)
"""The revenue authority's gateway: what the core asks of it, and what it may answer.

``docs/gateway.md`` is the contract in words, ``docs/gateway.openapi.yaml`` the same for programs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Protocol
from urllib.parse import urlsplit

from ..domain.approval.policy import GatewayPins
from ..domain.release.receipt import Rejection
from ..errors import ApgmsError
from ..libraries import cryptography_exceptions
from .http import CHUNK_BYTES, LOOPBACK
from .signer import key_id

CONTRACT = "apgms.release/gateway/1"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Identity:
    """What the gateway says of itself."""

    contract: str
    environment: str
    key_id: str
    public_key_pem: str
    key_retention_seconds: int
    """How long an idempotency key is remembered after its submission was taken."""
    lookup_is_authoritative: bool
    """Whether a lookup that finds nothing proves that nothing was taken, under the two limits."""
    lookup_settle_seconds: int
    """How long after the end of the last attempt a lookup that finds nothing may still be wrong."""


class State(StrEnum):
    """The state of a submission at the gateway."""

    QUEUED = "queued"
    RUNNING = "running"
    ACCEPTED = "accepted"
    PARTIALLY_ACCEPTED = "partially_accepted"
    REJECTED = "rejected"

    @property
    def final(self) -> bool:
        """Whether it can no longer change."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Status:
    """What the gateway says of one submission. Unsigned: only the receipt is evidence."""

    job_id: str
    state: State
    manifest_sha256: str
    idempotency_key: str
    body_sha256: str
    accepted_count: int
    rejected_count: int
    rejections: tuple[Rejection, ...]
    """One page of them."""
    next_rejection: str | None
    """Where the next page begins; none after the last."""
    receipt_id: str | None
    """Of the receipt, once it is issued."""
    poll_after_seconds: float | None
    """The gateway's own pace, from Retry-After; clamped."""


class Disposition(StrEnum):
    """What is known after an attempt to submit."""

    TAKEN = "taken"
    """The gateway has it: ask for the status of ``job_id``."""
    RUNNING = "running"
    """An earlier attempt under this key is still being received: ask, or send again, later."""
    DUPLICATE = "duplicate"
    """This manifest came under another key before: ``job_id``, where named, is that submission."""
    REFUSED = "refused"
    """A definite no, in the contract's form: this attempt left nothing behind."""
    NOT_SENT = "not_sent"
    """No connection was made: no byte of this attempt left this machine."""
    UNKNOWN = "unknown"
    """Bytes were sent and no answer can be relied on: ask, or send the same bytes again."""


@dataclass(frozen=True)
class Attempt:
    """The result of one attempt to submit: data, because no answer is a failure by itself."""

    disposition: Disposition
    job_id: str | None = None
    retry_after_seconds: float | None = None
    """The pace that the gateway asked for; clamped."""
    status: int | None = None
    """The HTTP status, where there was an answer."""
    code: str | None = None
    """The problem's code, where the answer was a problem of the contract."""
    detail: str = ""
    """What happened, in words for the operator and the journal."""


class GatewayUnavailable(ApgmsError):
    """A question to the gateway got no answer that can be relied on; it may be asked again.

    Reasons: ``gateway.unreachable``, ``gateway.busy``, ``gateway.malformed_answer``,
    ``gateway.redirected``, ``gateway.not_issued``.
    """

    def __init__(
        self,
        reason: str,
        what: str,
        *,
        where: str,
        why: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            reason,
            what,
            where=where,
            why=why,
            mend=f"curl -sS {where}  # then run the same command again; it takes up where it was",
        )
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Body:
    """The bytes of a submission, read anew for each attempt and never held in memory as a whole."""

    parts: tuple[Callable[[], IO[bytes]], ...]
    length: int
    sha256: str

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; the last of them only if all are still those that were digested.

        :raises ApgmsError: ``gateway.body_changed``, ``gateway.body_unreadable``
        """
        digest, length, held = hashlib.sha256(), 0, b""
        for chunk in _chunks(self.parts):
            digest.update(chunk)
            length += len(chunk)
            if length > self.length:
                raise _body_changed()
            if held:
                yield held
            held = chunk
        if digest.hexdigest() != self.sha256:
            raise _body_changed()
        yield held


def submission_body(manifest: bytes, rpts: Sequence[Callable[[], IO[bytes]]]) -> Body:
    """Return the body that submits a bundle.

    :param manifest: the content of ``manifest.json``
    :param rpts: openers of the bundle's ``rpts/*.jsonl``, in the manifest's order of batches
    """
    parts: tuple[Callable[[], IO[bytes]], ...] = (lambda: io.BytesIO(manifest + b"\n"), *rpts)
    digest = hashlib.sha256()
    length = 0
    for chunk in _chunks(parts):
        digest.update(chunk)
        length += len(chunk)
    return Body(parts, length, digest.hexdigest())


class Gateway(Protocol):
    """What the core asks of the gateway."""

    url: str

    def identity(self) -> Identity:
        """Return what the gateway says of itself.

        :raises GatewayUnavailable: where there is no reliable answer
        :raises ApgmsError: ``gateway.refused``, ``gateway.other_contract``
        """

    def submit(self, idempotency_key: str, body: Body) -> Attempt:
        """Send a submission once, and say what is known afterwards. Never raises for the network.

        :param idempotency_key: 16 to 128 of letters, digits, ``-``, ``.``, ``_``
        :raises ApgmsError: ``gateway.body_changed``, ``gateway.body_unreadable``: what was sent by
            then is no whole request, and is dropped
        """

    def status(self, job_id: str, rejections_from: str | None = None) -> Status:
        """Return the status of a submission, with one page of its rejections.

        :raises GatewayUnavailable: where there is no reliable answer
        :raises ApgmsError: ``gateway.refused``, ``gateway.unknown_job``
        """

    def lookup(
        self, *, manifest_sha256: str | None = None, idempotency_key: str | None = None
    ) -> Status | None:
        """Return the submission with this manifest checksum or key; None where none is known.

        :raises GatewayUnavailable: where there is no reliable answer
        :raises ApgmsError: ``gateway.refused``
        """

    def receipt(self, receipt_id: str) -> bytes:
        """Return a receipt as received; :func:`..domain.receipt.verify_receipt` judges it.

        :raises GatewayUnavailable: where there is no reliable answer, or it is not issued yet
        :raises ApgmsError: ``gateway.refused``
        """


def check_identity(identity: Identity, pins: GatewayPins, url: str) -> None:
    """Refuse a gateway that the policy does not pin for this stack.

    :raises ApgmsError: ``gateway.unpinned_host``, ``gateway.wrong_environment``,
        ``gateway.unpinned_key``
    """
    check_host(pins, url)
    if identity.environment not in pins.environments:
        raise ApgmsError(
            "gateway.wrong_environment",
            "This gateway belongs to an environment that the policy does not allow",
            where=url,
            why=f"it is {identity.environment}; allowed: {_listed(pins.environments)}",
            mend="set apgms_gateway_url to the gateway of this stack; nothing was sent",
        )
    pinned = pins.keys.get(identity.key_id)
    if pinned is None or _key_id(identity.public_key_pem) != identity.key_id:
        raise ApgmsError(
            "gateway.unpinned_key",
            "This gateway signs with a key that the policy does not pin",
            where=url,
            why=f"it shows key {identity.key_id}; pinned: {_listed(pins.keys)}",
            mend="ask the authority; pin a new key only in a signed policy. Nothing was sent",
        )


def check_host(pins: GatewayPins, url: str) -> None:
    """Refuse a host that the policy does not pin, before anything is said to it.

    :raises ApgmsError: ``gateway.unpinned_host``
    """
    if authority(url) not in pins.hosts:
        raise ApgmsError(
            "gateway.unpinned_host",
            "The policy does not allow this gateway address",
            where=url,
            why=f"its host is {authority(url)}; pinned: {_listed(pins.hosts)}",
            mend="set apgms_gateway_url to the gateway of this stack; nothing was sent",
        )


def authority(url: str) -> str:
    """Return ``host:port`` of a gateway address, as the policy pins it.

    :raises ApgmsError: ``gateway.malformed_url``, ``gateway.plain_http``
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise _malformed_url(url, str(error)) from None
    if parts.scheme not in _PORTS or not host or parts.query or parts.fragment or parts.username:
        raise _malformed_url(url, "it is not https://HOST[:PORT][/PATH]")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ApgmsError(
            "gateway.plain_http",
            "Plain HTTP is accepted on the loopback interface only",
            where=url,
            why=f"{host} is none of {', '.join(LOOPBACK)}",
            mend="set apgms_gateway_url to the https:// address",
        )
    return f"{host}:{port or _PORTS[parts.scheme]}"


def _malformed_url(url: str, why: str) -> ApgmsError:
    return ApgmsError(
        "gateway.malformed_url",
        "The gateway address cannot be read",
        where="gateway_url",
        why=f"{url!r}: {why}",
        mend="set apgms_gateway_url to https://HOST[:PORT]",
    )


def _body_changed() -> ApgmsError:
    return ApgmsError(
        "gateway.body_changed",
        "The bundle changed while it was sent; the gateway dropped what it got",
        where="rpts/*.jsonl of the bundle",
        why="the bytes are not those that were digested before",
        mend="find out who writes to the bundle, then run the same command again",
    )


def _body_unreadable(error: OSError) -> ApgmsError:
    return ApgmsError(
        "gateway.body_unreadable",
        "The bundle cannot be read while it is sent",
        where=str(error.filename or "rpts/*.jsonl of the bundle"),
        why=str(error),
        mend="make the bundle readable, then run the same command again",
    )


def _key_id(pem: str) -> str | None:
    try:
        return key_id(pem.encode())
    except (ValueError, cryptography_exceptions.UnsupportedAlgorithm):
        return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _chunks(parts: Iterable[Callable[[], IO[bytes]]]) -> Iterator[bytes]:
    for part in parts:
        try:
            with part() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise _body_unreadable(error) from error
