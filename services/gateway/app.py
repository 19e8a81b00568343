# GNU General Public License v3.0+ (see COPYING)
"""The contract's routes, and the job queue behind them."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .contract import CONTRACT, IDEMPOTENCY_KEY, SHA256, Problem, SigningKey
from .intake import Intake
from .state import State, Submission


@dataclass(frozen=True)
class Terms:
    """What the gateway is and promises."""

    environment: str
    key_retention_seconds: int
    settle_seconds: int
    processing_seconds: float
    poll_seconds: int
    token: str | None


class Queue:
    """Decides submissions one after the other, those of an earlier process first."""

    def __init__(self, state: State, terms: Terms, key: SigningKey) -> None:
        self._state = state
        self._terms = terms
        self._key = key
        self._jobs: asyncio.Queue[str] = asyncio.Queue()

    def put(self, submission: Submission) -> None:
        """Queue a submission that was just taken."""
        self._jobs.put_nowait(submission.job_id)

    async def work(self) -> None:
        """Decide for ever."""
        for job_id in self._state.undecided():
            await self._decide(job_id)
        while True:
            await self._decide(await self._jobs.get())

    async def _decide(self, job_id: str) -> None:
        submission = self._state.by_job(job_id)
        if submission is None or submission.final:
            return
        await asyncio.to_thread(self._state.begin, job_id)
        await asyncio.sleep(self._terms.processing_seconds)
        await asyncio.to_thread(self._state.decide, job_id, self._terms.environment, self._key)


class Routes:
    """The contract's operations."""

    def __init__(
        self, state: State, intake: Intake, queue: Queue, terms: Terms, key: SigningKey
    ) -> None:
        self._state = state
        self._intake = intake
        self._queue = queue
        self._terms = terms
        self._key = key

    async def identity(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "contract": CONTRACT,
                "environment": self._terms.environment,
                "key_id": self._key.key_id,
                "public_key_pem": self._key.public_pem,
                "key_retention_seconds": self._terms.key_retention_seconds,
                "guarantees": {
                    "lookup_is_authoritative": True,
                    "lookup_settle_seconds": self._terms.settle_seconds,
                },
            }
        )

    async def submissions(self, request: Request) -> Response:
        return await (self.submit if request.method == "POST" else self.lookup)(request)

    async def submit(self, request: Request) -> Response:
        submission = await self._intake.submit(request)
        self._queue.put(submission)
        return self._status(submission, 202, {"location": f"/v1/submissions/{submission.job_id}"})

    async def lookup(self, request: Request) -> Response:
        return self._status(_found(self._search(request)))

    async def status(self, request: Request) -> Response:
        submission = _found(self._state.by_job(request.path_params["job_id"]))
        first = request.query_params.get("rejections_from", "0")
        if not (first.isascii() and first.isdigit() and len(first) < 10):
            raise Problem("bad_request", "rejections_from is not a next_rejection")
        return self._status(submission, first=int(first))

    async def receipt(self, request: Request) -> Response:
        envelope = self._state.envelope(request.path_params["receipt_id"])
        if envelope is None:
            raise Problem("not_found", "no such receipt")
        return Response(envelope, media_type="application/vnd.dsse+json")

    def _search(self, request: Request) -> Submission | None:
        if len(request.query_params.multi_items()) == 1:
            ((name, value),) = request.query_params.multi_items()
            if name == "manifest_sha256" and SHA256.fullmatch(value):
                return self._state.by_manifest(value)
            if name == "idempotency_key" and IDEMPOTENCY_KEY.fullmatch(value):
                return self._state.by_key(value)
        raise Problem("bad_request", "give exactly one of manifest_sha256 and idempotency_key")

    def _status(
        self,
        submission: Submission,
        code: int = 200,
        headers: dict[str, str] | None = None,
        first: int = 0,
    ) -> Response:
        pace = {} if submission.final else {"retry-after": str(self._terms.poll_seconds)}
        body = self._state.status(submission, first)
        return JSONResponse(body, code, {**pace, **(headers or {})})


def build_app(routes: Routes, queue: Queue, terms: Terms) -> Starlette:
    """Return the public application."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> Any:
        worker = asyncio.create_task(queue.work())
        yield
        worker.cancel()

    def guarded(operation: Callable[[Request], Awaitable[Response]]) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                _authorise(request, terms.token)
                return await operation(request)
            except ClientDisconnect:
                return Response(status_code=400)

        return endpoint

    return Starlette(
        lifespan=lifespan,
        exception_handlers={Problem: _problem, HTTPException: _http_problem},
        routes=[
            Route("/v1/identity", guarded(routes.identity)),
            Route("/v1/submissions", guarded(routes.submissions), methods=["GET", "POST"]),
            Route("/v1/submissions/{job_id}", guarded(routes.status)),
            Route("/v1/receipts/{receipt_id}", guarded(routes.receipt)),
        ],
    )


def _found(submission: Submission | None) -> Submission:
    if submission is None:
        raise Problem("not_found", "no such submission")
    return submission


def _authorise(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "").encode()
    if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise Problem("unauthorised", "a valid bearer token is required")


async def _problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - registered for Problem only
    headers = {"retry-after": "1"} if problem.status in (408, 409, 429, 503) else {}
    return JSONResponse(problem.body, problem.status, headers, "application/problem+json")


async def _http_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for HTTPException only
    code = "not_found" if error.status_code == 404 else "bad_request"
    body = {"title": error.detail, "status": error.status_code, "code": code}
    return JSONResponse(body, error.status_code, error.headers, "application/problem+json")
