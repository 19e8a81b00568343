# GNU General Public License v3.0+ (see COPYING)
"""An object store in an S3 bucket."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from ..errors import ApgmsError
from ..libraries import boto3, botocore
from .object_store import (
    CHUNK_BYTES,
    ObjectMissing,
    Objects,
    PutHere,
    Putter,
    read,
    require_same,
    unreachable,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REQUESTS_AT_ONCE = 8
BATCHES_AT_ONCE = 4
CONNECTIONS = (1 + BATCHES_AT_ONCE) * REQUESTS_AT_ONCE
"""A pool with room for the threads of as many batches, and one that reads."""
AGAIN = "then run the same command again"
A = TypeVar("A")
R = TypeVar("R")


class S3Store:
    """Objects in a bucket; puts are conditional (``If-None-Match: *``)."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._endpoint = endpoint
        self._client_made: S3Client | None = None

    def put_new(self, key: str, data: bytes | Path) -> bool:
        with contextlib.ExitStack() as stack:
            body = stack.enter_context(data.open("rb")) if isinstance(data, Path) else data
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=body, IfNoneMatch="*"
                )
            except botocore.exceptions.ClientError as error:
                if _status(error) != 412:
                    raise self._unreachable(error) from error
            except botocore.exceptions.BotoCoreError as error:
                raise self._unreachable(error) from error
            else:
                return True
        # 412 also answers botocore's own retry of a put whose reply was lost: compare.
        require_same(self, key, data)
        return False

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        self._client  # noqa: B018 - made before threads share it
        for _new in _in_order(lambda new: self.put_new(*new), objects, REQUESTS_AT_ONCE):
            pass

    @contextlib.contextmanager
    def putting(self) -> Iterator[Putter]:
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
            yield _PutInThreads(self, pool)

    def open(self, key: str) -> IO[bytes]:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except botocore.exceptions.ClientError as error:
            if _status(error) == 404 and _code(error) != "NoSuchBucket":
                raise ObjectMissing(self.url, key) from None
            raise self._unreachable(error) from error
        except botocore.exceptions.BotoCoreError as error:
            raise self._unreachable(error) from error
        body = _S3Body(answer["Body"], self._unreachable)
        return cast("IO[bytes]", io.BufferedReader(body, CHUNK_BYTES))

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        self._client  # noqa: B018 - made before threads share it
        return _in_order(lambda key: read(self, key), keys, REQUESTS_AT_ONCE)

    def keys(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        try:
            for page in pages:
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self._prefix)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ApgmsError:
        code = _code(error)
        if code == "NoSuchBucket":
            why = f"there is no bucket {self._bucket} ({code})"
            return unreachable(self.url, why, f"{self._make_bucket()}, {AGAIN}")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            why = f"the access key is not known there, or has another secret ({code})"
            return unreachable(self.url, why, f"{_mend_keys()}, {AGAIN}")
        return unreachable(self.url, error, f"{_mend_session(error)}, {AGAIN}")

    def _make_bucket(self) -> str:
        endpoint = f" --endpoint-url {shlex.quote(self._endpoint)}" if self._endpoint else ""
        return f"aws s3 mb s3://{self._bucket}{endpoint}  # or correct apgms_object_store"

    @property
    def _client(self) -> S3Client:
        if self._client_made is None:
            try:
                self._client_made = boto3.client(
                    "s3",
                    endpoint_url=self._endpoint,
                    config=botocore.config.Config(max_pool_connections=CONNECTIONS),
                )
            except (botocore.exceptions.BotoCoreError, ValueError) as error:
                raise self._unreachable(error) from error
        return self._client_made


class _PutInThreads:
    """Puts a few batches at once, each in a thread."""

    def __init__(self, store: S3Store, pool: ThreadPoolExecutor) -> None:
        self._here = PutHere(store.put_many)
        self._pool = pool
        self._begun: deque[Future[None]] = deque()

    def put(self, objects: Objects) -> None:
        if len(self._begun) > BATCHES_AT_ONCE:
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(self._here.put, objects))

    def settle(self) -> None:
        while self._begun:
            self._begun.popleft().result()


class _S3Body(io.RawIOBase):
    """The body of an answer, with the faults of its connection in the operator's words."""

    def __init__(self, body: Any, refusal: Callable[[Exception], ApgmsError]) -> None:
        self._body = body
        self._refusal = refusal

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._body.readinto(buffer))
        except botocore.exceptions.BotoCoreError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        self._body.close()
        super().close()


def _in_order(action: Callable[[A], R], items: Iterable[A], threads: int) -> Iterator[R]:
    """Yield what ``action`` returns for each item, in their order; where it raises, so does this.

    Items are taken as threads become free. All actions have ended once the iterator has.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            if len(pending) > threads:
                yield pending.popleft().result()
            pending.append(pool.submit(action, item))
        while pending:
            yield pending.popleft().result()


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Any) -> str:
    """Return the code of an answer, and nothing where there was no answer."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _mend_session(error: Exception) -> str:
    if isinstance(error, botocore.exceptions.ProfileNotFound):
        return "aws configure list-profiles  # set AWS_PROFILE to one of them"
    return f"aws sso login --profile {_profile()}  # or correct apgms_object_store, or its rights"


def _mend_keys() -> str:
    """Return what mends wrong keys: those of the environment are taken before any session's."""
    unset = "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"
    return f"{unset}; aws sso login --profile {_profile()}  # or set these variables rightly"


def _profile() -> str:
    return shlex.quote(os.environ.get("AWS_PROFILE", "default"))
