# GNU General Public License v3.0+ (see COPYING)
"""Taking a submission: spooled to disk, checked, and stored whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from .contract import (
    CONTENT_DIGEST,
    IDEMPOTENCY_KEY,
    Problem,
    Row,
    read_manifest,
    read_rows,
)
from .state import State, Submission

MEDIA_TYPE = "application/x-ndjson"


@dataclass(frozen=True)
class Limits:
    """What an upload may cost."""

    bytes: int
    seconds: float
    """The settle time of lookups: what is not stored by then is dropped."""


class Intake:
    """Receives uploads, at most one at a time under each key."""

    def __init__(
        self,
        state: State,
        environment: str,
        folder: Path,
        limits: Limits,
        rows_to_reject: Callable[[], int],
    ) -> None:
        self._state = state
        self._rows_to_reject = rows_to_reject
        self._environment = environment
        self._folder = folder
        self._limits = limits
        self._receiving: set[str] = set()
        self._taking = threading.Lock()

    async def submit(self, request: Request) -> Submission:
        """Return the submission in a request, taken now or before.

        :raises Problem: where it is not taken
        """
        try:
            key, expected = _check_headers(request)
            self._reserve(key)
        except Problem:
            await self._drain(request)
            raise
        deadline = time.monotonic() + self._limits.seconds
        path = self._folder / secrets.token_hex(16)
        try:
            digest = await self._spool(request, path)
            if digest != expected:
                raise Problem("digest_mismatch", f"the body's sha-256 is {digest}")
            return await asyncio.to_thread(self._take, key, path, digest, deadline)
        finally:
            self._receiving.discard(key)
            path.unlink(missing_ok=True)

    def _reserve(self, key: str) -> None:
        if key in self._receiving:
            raise Problem("key_in_progress", "an earlier request under this key is not done")
        self._receiving.add(key)

    async def _spool(self, request: Request, path: Path) -> str:
        digest, length = hashlib.sha256(), 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                with path.open("wb") as spool:
                    async for chunk in request.stream():
                        length += len(chunk)
                        if length > self._limits.bytes:
                            raise Problem("too_large", f"at most {self._limits.bytes} bytes")
                        digest.update(chunk)
                        spool.write(chunk)
        except TimeoutError:
            raise Problem("too_slow", f"not received in {self._limits.seconds} s") from None
        return digest.hexdigest()

    async def _drain(self, request: Request) -> None:
        """Read what is refused anyway: a client that still sends would miss the answer."""
        length = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    length += len(chunk)
                    if length > self._limits.bytes:
                        return

    def _take(self, key: str, path: Path, body_sha256: str, deadline: float) -> Submission:
        with self._taking, path.open("rb") as upload:
            known = self._state.by_key(key)
            if known is not None:
                return _same_body_or_problem(known, body_sha256)
            manifest, checksum = read_manifest(upload, self._environment)
            earlier = self._state.by_manifest(checksum)
            if earlier is not None:
                raise Problem(
                    "duplicate_manifest",
                    "this manifest was submitted under another key",
                    earlier.job_id,
                )
            rows = _in_time(read_rows(upload, manifest), deadline)
            return self._state.take(
                key, checksum, body_sha256, manifest, rows, self._rows_to_reject
            )


def _in_time(rows: Iterator[Row], deadline: float) -> Iterator[Row]:
    yield from rows
    if time.monotonic() > deadline:
        raise Problem("too_slow", "not stored within the settle time of lookups")


def _same_body_or_problem(known: Submission, body_sha256: str) -> Submission:
    if known.body_sha256 != body_sha256:
        raise Problem("key_reused", "this key came with another body before")
    return known


def _check_headers(request: Request) -> tuple[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != MEDIA_TYPE:
        raise Problem("wrong_media_type", f"the body must be {MEDIA_TYPE}")
    key = request.headers.get("idempotency-key", "")
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise Problem("missing_idempotency_key", f"Idempotency-Key: {IDEMPOTENCY_KEY.pattern}")
    match = CONTENT_DIGEST.fullmatch(request.headers.get("content-digest", ""))
    if match is None:
        raise Problem("missing_content_digest", "Content-Digest: sha-256=:BASE64:")
    return key, base64.b64decode(match[1]).hex()
