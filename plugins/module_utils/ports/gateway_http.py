# GNU General Public License v3.0+ (see COPYING)
"""The gateway over HTTP: the contract's answers, read strictly.

Everything that is not an answer of the contract is treated as no answer at all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ..domain.approval.policy import GatewayPins
from ..domain.formats.canonical import MAX_SAFE_INTEGER, parse_json
from ..domain.formats.shape import LINE, require_shape
from ..domain.release.receipt import read_rejection
from ..domain.release.retry import retried
from ..errors import ApgmsError
from .clock import Clock, SystemClock
from .gateway import (
    CONTRACT,
    Attempt,
    Body,
    Disposition,
    GatewayUnavailable,
    Identity,
    State,
    Status,
    check_host,
)
from .http import Answer, Broken, HttpClient, Limits, NotConnected, printable

Parsed = TypeVar("Parsed")

MAX_ANSWER_BYTES = 1 << 20
MAX_RECEIPT_BYTES = 64 << 20
MAX_SECONDS = 100 * 365 * 86_400
"""Longer promises count as this long: they are for ever either way, and can be added to a date."""
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,128}")
REFUSALS = {
    "unauthorised": 401,
    "bad_request": 400,
    "missing_idempotency_key": 400,
    "missing_content_digest": 400,
    "digest_mismatch": 400,
    "dry_run": 403,
    "wrong_environment": 403,
    "too_large": 413,
    "wrong_media_type": 415,
    "manifest_malformed": 422,
    "rows_differ_from_manifest": 422,
    "key_reused": 422,
}
"""The problems that are a definite no, with the status that belongs to each."""


def open_gateway(
    url: str,
    pins: GatewayPins,
    *,
    ca: str | None = None,
    client_cert: str | None = None,
    client_key: str | None = None,
    token: str | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> HttpGateway:
    """Return the gateway at ``url``, which the policy must pin; nothing is sent yet.

    :param ca: PEM file of the authorities that sign its certificate, instead of the system's
    :param client_cert: PEM file; ``client_key`` is the file of its private key
    :param token: bearer token
    :raises ApgmsError: ``gateway.malformed_url``, ``gateway.plain_http``,
        ``gateway.unpinned_host``, ``gateway.tls_file``, ``gateway.malformed_token``
    """
    check_host(pins, url)
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ApgmsError(
            "gateway.malformed_token",
            "The gateway's bearer token cannot be sent",
            where="gateway_token",
            why="it is empty, or holds spaces, line ends or other than ASCII characters",
            mend="set apgms_gateway_token to the token alone",
        )
    client = HttpClient(url, ca=ca, client_cert=client_cert, client_key=client_key, limits=limits)
    return HttpGateway(url, client, token, clock or SystemClock())


class HttpGateway:
    """The gateway over HTTP; :func:`open_gateway` makes it."""

    def __init__(self, url: str, client: HttpClient, token: str | None, clock: Clock) -> None:
        self.url = url
        self._client = client
        self._clock = clock
        self._headers = {"User-Agent": "apgms.release"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def identity(self) -> Identity:
        return self._ask("/v1/identity", _read_identity)

    def submit(self, idempotency_key: str, body: Body) -> Attempt:
        if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise ValueError(f"{idempotency_key!r} is not an idempotency key")
        digest = base64.b64encode(bytes.fromhex(body.sha256)).decode()
        headers = {
            **self._headers,
            "Content-Type": "application/x-ndjson",
            "Content-Length": str(body.length),
            "Content-Digest": f"sha-256=:{digest}:",
            "Idempotency-Key": idempotency_key,
        }
        try:
            answer = self._client.request(
                "POST",
                "/v1/submissions",
                headers,
                body=body.chunks(),
                length=body.length,
                max_bytes=MAX_ANSWER_BYTES,
            )
        except NotConnected as error:
            return Attempt(Disposition.NOT_SENT, detail=str(error))
        except Broken as error:
            return Attempt(Disposition.UNKNOWN, detail=str(error))
        return self._attempt(answer, idempotency_key, body.sha256)

    def status(self, job_id: str, rejections_from: str | None = None) -> Status:
        query = f"?{urlencode({'rejections_from': rejections_from})}" if rejections_from else ""
        path = f"/v1/submissions/{quote(job_id, safe='')}"
        status = self._ask_or_none(path + query, self._read_status)
        if status is None:
            raise GatewayUnavailable(
                "gateway.unknown_job",
                "The gateway does not know a submission that it named itself",
                where=self.url + path,
                why="it answers 404 for the job",
            )
        return self._same(status, path, job_id=job_id)

    def lookup(
        self, *, manifest_sha256: str | None = None, idempotency_key: str | None = None
    ) -> Status | None:
        asked = {"manifest_sha256": manifest_sha256, "idempotency_key": idempotency_key}
        given = {name: value for name, value in asked.items() if value is not None}
        if len(given) != 1:
            raise ValueError("give exactly one of manifest_sha256 and idempotency_key")
        path = f"/v1/submissions?{urlencode(given)}"
        status = self._ask_or_none(path, self._read_status)
        return None if status is None else self._same(status, path, **given)

    def receipt(self, receipt_id: str) -> bytes:
        path = f"/v1/receipts/{quote(receipt_id, safe='')}"
        answer = self._get(path, MAX_RECEIPT_BYTES)
        if answer.status == 404:
            raise GatewayUnavailable(
                "gateway.not_issued",
                "The gateway has not issued the receipt that it named",
                where=self.url + path,
                why="it answers 404",
                retry_after_seconds=answer.retry_after(self._clock.now()),
            )
        self._require(answer, path, "application/vnd.dsse+json")
        return answer.body

    def _attempt(self, answer: Answer, idempotency_key: str, body_sha256: str) -> Attempt:
        pace = answer.retry_after(self._clock.now())
        unknown = Attempt(
            Disposition.UNKNOWN,
            retry_after_seconds=pace,
            status=answer.status,
            detail=_described(answer),
        )
        try:
            if answer.status == 202 and answer.media_type == "application/json":
                return _taken(self._read_status(answer), idempotency_key, body_sha256) or unknown
            problem = _read_problem(answer)
        except ValueError:
            return unknown
        disposition = _disposition(problem["code"], answer.status)
        return Attempt(
            disposition,
            problem.get("job_id"),
            pace,
            answer.status,
            problem["code"],
            _described(answer),
        )

    def _ask(self, path: str, read: Callable[[Answer], Parsed]) -> Parsed:
        found = self._ask_or_none(path, read)
        if found is None:
            raise self._malformed(path, "it answers 404")
        return found

    def _ask_or_none(self, path: str, read: Callable[[Answer], Parsed]) -> Parsed | None:
        answer = self._get(path, MAX_ANSWER_BYTES)
        if answer.status == 404:
            return None
        self._require(answer, path, "application/json")
        try:
            return read(answer)
        except ValueError as error:
            raise self._malformed(path, str(error)) from None

    def _get(self, path: str, max_bytes: int) -> Answer:
        """Return an answer that is a success, or the contract's own 404."""
        try:
            answer = self._client.request("GET", path, self._headers, max_bytes=max_bytes)
        except (NotConnected, Broken) as error:
            raise GatewayUnavailable(
                "gateway.unreachable",
                "The gateway cannot be reached, or the connection to it broke",
                where=self.url + path,
                why=str(error),
            ) from error
        if answer.status != 200:
            self._refuse_unless_not_found(answer, path)
        return answer

    def _refuse_unless_not_found(self, answer: Answer, path: str) -> None:
        if retried(answer.status):
            raise GatewayUnavailable(
                "gateway.busy",
                "The gateway asks to come back later",
                where=self.url + path,
                why=_described(answer),
                retry_after_seconds=answer.retry_after(self._clock.now()),
            )
        if 300 <= answer.status < 400:
            raise GatewayUnavailable(
                "gateway.redirected",
                "The gateway answers with a redirect, which is never followed",
                where=self.url + path,
                why=printable(f"{answer.status} to {answer.headers.get('location', 'nowhere')}"),
            )
        try:
            problem = _read_problem(answer)
        except ValueError as error:
            raise self._malformed(path, str(error)) from None
        if (answer.status, problem["code"]) == (404, "not_found"):
            return
        if answer.status == 404:
            raise self._malformed(path, _described(answer))
        raise self._refused(path, answer, problem["code"])

    def _require(self, answer: Answer, path: str, media_type: str) -> None:
        if answer.media_type != media_type or not answer.body:
            raise self._malformed(path, _described(answer))

    def _read_status(self, answer: Answer) -> Status:
        return read_status(answer.body, answer.retry_after(self._clock.now()))

    def _same(self, status: Status, path: str, **asked: str) -> Status:
        for name, value in asked.items():
            if getattr(status, name) != value:
                raise self._malformed(path, f"it answers for {name} {getattr(status, name)}")
        return status

    def _malformed(self, path: str, why: str) -> GatewayUnavailable:
        return GatewayUnavailable(
            "gateway.malformed_answer",
            "The gateway answered something that is not in its contract",
            where=self.url + path,
            why=why,
        )

    def _refused(self, path: str, answer: Answer, code: str) -> ApgmsError:
        return ApgmsError(
            "gateway.refused",
            "The gateway refused to answer",
            where=self.url + path,
            why=_described(answer),
            mend="check apgms_gateway_token and the client certificate"
            if code == "unauthorised"
            else "use the collection version that speaks this gateway's contract",
            code=code,
        )


def read_status(body: bytes, poll_after_seconds: float | None) -> Status:
    """Return the status in an answer.

    :raises ValueError: where it is not one of the contract
    """
    document = parse_json(body)
    _require_answer(document, _STATUS)
    return Status(
        **{
            **document,
            "state": State(document["state"]),
            "rejections": tuple(map(read_rejection, document["rejections"])),
        },
        poll_after_seconds=poll_after_seconds,
    )


def _taken(status: Status, idempotency_key: str, body_sha256: str) -> Attempt | None:
    if (status.idempotency_key, status.body_sha256) != (idempotency_key, body_sha256):
        return None
    return Attempt(Disposition.TAKEN, status.job_id, status.poll_after_seconds, 202)


def _disposition(code: str, status: int) -> Disposition:
    if (code, status) == ("key_in_progress", 409):
        return Disposition.RUNNING
    if (code, status) == ("duplicate_manifest", 409):
        return Disposition.DUPLICATE
    return Disposition.REFUSED if REFUSALS.get(code) == status else Disposition.UNKNOWN


def _read_identity(answer: Answer) -> Identity:
    document = parse_json(answer.body)
    _require_answer(document, _IDENTITY)
    if document["contract"] != CONTRACT:
        raise ApgmsError(
            "gateway.other_contract",
            "The gateway speaks another contract",
            where="the gateway's identity",
            why=f"it is {document['contract']}, this version speaks {CONTRACT}",
            mend="use the collection version that speaks this gateway's contract",
        )
    guarantees = document.pop("guarantees")
    _require_answer(guarantees, _GUARANTEES)
    said = {**document, **guarantees}
    for name in ("key_retention_seconds", "lookup_settle_seconds"):
        said[name] = min(said[name], MAX_SECONDS)
    return Identity(**said)


def _read_problem(answer: Answer) -> dict[str, Any]:
    if answer.media_type != "application/problem+json":
        raise ValueError(f"{answer.status} is no problem of the contract")
    problem: dict[str, Any] = parse_json(answer.body)
    require_shape(problem, dict, "the problem")
    for name, shape in _PROBLEM.items():
        require_shape(problem.get(name), shape, f"the problem: {name}")
    return problem


def _described(answer: Answer) -> str:
    try:
        problem = _read_problem(answer)
    except ValueError:
        kind = printable(answer.media_type) or "no type"
        return f"{answer.status} with {len(answer.body)} bytes of {kind}"
    return printable(f"{answer.status} {problem['code']}: {problem.get('detail', '')}")


_PROBLEM: dict[str, Any] = {"code": LINE, "job_id": (LINE, None)}
_STATUS: dict[str, Any] = {
    "job_id": LINE,
    "state": re.compile("|".join(State)),
    "manifest_sha256": LINE,
    "idempotency_key": LINE,
    "body_sha256": LINE,
    "accepted_count": int,
    "rejected_count": int,
    "rejections": list,
    "next_rejection": (LINE, None),
    "receipt_id": (LINE, None),
}
_IDENTITY: dict[str, Any] = {
    "contract": LINE,
    "environment": LINE,
    "key_id": LINE,
    "public_key_pem": str,
    "key_retention_seconds": int,
    "guarantees": dict,
}
_GUARANTEES: dict[str, Any] = {"lookup_is_authoritative": bool, "lookup_settle_seconds": int}


def _require_answer(document: Any, shape: dict[str, Any]) -> None:
    require_shape(document, shape, "the answer")
    for name, value in document.items():
        if shape[name] is int and not 0 <= value <= MAX_SAFE_INTEGER:
            raise ValueError(f"the answer: {name} is out of range")
