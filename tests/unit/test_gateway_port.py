# GNU General Public License v3.0+ (see COPYING)
"""The gateway port alone: pins, addresses, bodies, pace, and answers outside the contract."""

from __future__ import annotations

import dataclasses
import functools
import io
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    GatewayPins,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    CONTRACT,
    Disposition,
    GatewayUnavailable,
    Identity,
    authority,
    check_identity,
    submission_body,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import (
    HttpGateway,
    open_gateway,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.http import (
    MAX_RETRY_AFTER_SECONDS,
    Limits,
    retry_after,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import key_id, public_pem

NOW = datetime(2025, 10, 1, tzinfo=UTC)
KEY = "some-key-0123456789"
PEM = public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()).decode()
OTHER_PEM = public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()).decode()
URL = "https://gateway.example"
PINS = GatewayPins(("production",), ("gateway.example:443",), {key_id(PEM.encode()): PEM})
IDENTITY = Identity(CONTRACT, "production", key_id(PEM.encode()), PEM, 3600, True, 60)


def _reason(act: Callable[[], object]) -> str:
    with pytest.raises(ApgmsError) as caught:
        act()
    return caught.value.reason


def test_the_pinned_gateway_passes() -> None:
    check_identity(IDENTITY, PINS, URL)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "sandbox"}, "gateway.wrong_environment"),
        ({"key_id": key_id(OTHER_PEM.encode())}, "gateway.unpinned_key"),
        ({"public_key_pem": OTHER_PEM}, "gateway.unpinned_key"),
        ({"public_key_pem": "no key"}, "gateway.unpinned_key"),
    ],
    ids=str,
)
def test_a_gateway_that_is_not_pinned_is_refused(changes: dict[str, Any], reason: str) -> None:
    identity = dataclasses.replace(IDENTITY, **changes)

    assert _reason(lambda: check_identity(identity, PINS, URL)) == reason


@pytest.mark.parametrize("url", ["https://gateway.example:444", "https://other.example"])
def test_a_host_that_is_not_pinned_is_refused_before_it_is_spoken_to(url: str) -> None:
    assert _reason(lambda: check_identity(IDENTITY, PINS, url)) == "gateway.unpinned_host"
    assert _reason(lambda: open_gateway(url, PINS)) == "gateway.unpinned_host"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Gateway.Example/path", "gateway.example:443"),
        ("https://gateway.example:8443", "gateway.example:8443"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://localhost", "localhost:80"),
    ],
)
def test_an_address_is_pinned_by_host_and_port(url: str, expected: str) -> None:
    assert authority(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://gateway.example", "gateway.plain_http"),
        ("http://127.0.0.1.example", "gateway.plain_http"),
        ("ftp://gateway.example", "gateway.malformed_url"),
        ("gateway.example", "gateway.malformed_url"),
        ("https://", "gateway.malformed_url"),
        ("https://gateway.example:port", "gateway.malformed_url"),
        ("https://user:secret@gateway.example", "gateway.malformed_url"),
        ("https://gateway.example?a=b", "gateway.malformed_url"),
        ("https://[gateway.example", "gateway.malformed_url"),
        (f"https://{'a' * 64}.example", "gateway.malformed_url"),
        ("", "gateway.malformed_url"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, reason: str) -> None:
    assert _reason(lambda: authority(url)) == reason


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Other: header", "ü"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ApgmsError) as caught:
        open_gateway(URL, PINS, token=token)

    assert caught.value.reason == "gateway.malformed_token"
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("name", ["ca", "client_cert"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_tls_file_that_cannot_be_loaded_is_named(
    tmp_path: Path, name: str, content: str | None
) -> None:
    path = tmp_path / "file.pem"
    if content:
        path.write_text(content)
    files: dict[str, Any] = {name: str(path)}

    with pytest.raises(ApgmsError) as caught:
        open_gateway(URL, PINS, **files)

    assert caught.value.reason == "gateway.tls_file"
    assert str(path) in str(caught.value)


@given(st.integers(0, 10**30))
def test_seconds_to_wait_are_clamped(seconds: int) -> None:
    assert retry_after(str(seconds), NOW) == min(seconds, MAX_RETRY_AFTER_SECONDS)


@given(st.integers(-(10**6), 10**6))
def test_a_date_to_wait_for_is_clamped(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)

    assert retry_after(date, NOW) == min(max(seconds, 0), MAX_RETRY_AFTER_SECONDS)


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-1", "1.5", "\u0661", "Mon, 99 Foo 2025", "9" * 5000]
)
def test_a_pace_that_cannot_be_read_is_none_or_the_longest(value: str | None) -> None:
    expected = MAX_RETRY_AFTER_SECONDS if value and value.startswith("9") else None

    assert retry_after(value, NOW) == expected


@given(st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=4))
def test_a_body_is_the_manifest_and_the_rows(manifest: bytes, rpts: list[bytes]) -> None:
    body = submission_body(manifest, [functools.partial(io.BytesIO, rows) for rows in rpts])
    expected = manifest + b"\n" + b"".join(rpts)

    assert b"".join(body.chunks()) == b"".join(body.chunks()) == expected
    assert (body.length, body.sha256) == (len(expected), sha256_hex(expected))


@pytest.mark.parametrize("later", [b"rows!\n", b"rows\nrows\n", b"ro", b""])
def test_a_body_that_changed_is_never_sent_to_its_end(tmp_path: Path, later: bytes) -> None:
    path = tmp_path / "GST-2025-09.jsonl"
    path.write_bytes(b"rows.\n")
    body = submission_body(b"{}", [lambda: path.open("rb")])
    path.write_bytes(later)
    sent = bytearray()

    with pytest.raises(ApgmsError) as caught:
        for chunk in body.chunks():
            sent += chunk

    assert caught.value.reason == "gateway.body_changed"
    assert len(sent) < body.length


def test_a_body_that_vanished_is_named(tmp_path: Path) -> None:
    path = tmp_path / "GST-2025-09.jsonl"
    path.write_bytes(b"rows\n")
    body = submission_body(b"{}", [lambda: path.open("rb")])
    path.unlink()

    with pytest.raises(ApgmsError) as caught:
        list(body.chunks())

    assert caught.value.reason == "gateway.body_unreadable"
    assert str(path) in str(caught.value)


class CannedServer:
    """Answers each connection, after it read the request, with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def port(self) -> HttpGateway:
        pins = GatewayPins((), (authority(self.url),), {})
        return open_gateway(self.url, pins, limits=Limits(connect=2, stall=2, answer=0.5))

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(_request(connection))
                connection.sendall(self._answer)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], CannedServer]]:
    servers: list[CannedServer] = []

    def start(answer: bytes) -> CannedServer:
        servers.append(CannedServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _http(status: str, body: bytes, *headers: str, media_type: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", *headers]
    if not any(header.startswith(("Content-Length", "Transfer")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _problem(body: bytes, status: str = "403 Forbidden") -> bytes:
    return _http(status, body, media_type="application/problem+json")


STATUS = (
    b'{"job_id":"job-1","state":"queued","manifest_sha256":"m","idempotency_key":"KEY",'
    b'"body_sha256":"BODY","accepted_count":0,"rejected_count":0,"rejections":[],'
    b'"next_rejection":null,"receipt_id":null}'
).replace(b"KEY", KEY.encode())
BODY = submission_body(b"{}", [])
GOOD = STATUS.replace(b"BODY", BODY.sha256.encode())
PROBLEM = b'{"title":"t","status":403,"code":"dry_run"}'

NO_ANSWER: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"hello\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "headers only": b"HTTP/1.1 202 Accepted\r\n",
    "endless headers": b"HTTP/1.1 202 Accepted\r\n" + b"X: y\r\n" * 200,
    "cut short": _http("202 Accepted", GOOD, "Content-Length: 1000"),
    "cut short in a chunk": _http("202 Accepted", b"40\r\n{", "Transfer-Encoding: chunked"),
    "two lengths": _http("202 Accepted", GOOD, "Content-Length: 1", "Content-Length: 2"),
    "compressed": _http("202 Accepted", GOOD, "Content-Encoding: gzip"),
    "too long": _http("202 Accepted", GOOD + b" " * (2 << 20)),
    "a chunk of negative length": _http("202 Accepted", b"-5\r\n{", "Transfer-Encoding: chunked"),
}
NOT_OF_THE_CONTRACT: dict[str, bytes] = {
    "another success": _http("200 OK", GOOD),
    "created": _http("201 Created", GOOD),
    "HTML": _http("202 Accepted", GOOD, media_type="text/html"),
    "no JSON": _http("202 Accepted", b"accepted"),
    "half of the JSON": _http("202 Accepted", GOOD[:-20]),
    "a list": _http("202 Accepted", b"[]"),
    "deep JSON": _http("202 Accepted", b"[" * 100_000),
    "a member twice": _http("202 Accepted", GOOD[:-1] + b',"job_id":"job-2"}'),
    "a member more": _http("202 Accepted", GOOD[:-1] + b',"more":1}'),
    "a member less": _http("202 Accepted", GOOD.replace(b'"receipt_id":null', b'"x":null')),
    "an unknown state": _http("202 Accepted", GOOD.replace(b"queued", b"perhaps")),
    "a text for a count": _http("202 Accepted", GOOD.replace(b'_count":0', b'_count":"0"')),
    "a negative count": _http("202 Accepted", GOOD.replace(b'_count":0', b'_count":-1')),
    "a truth for a count": _http("202 Accepted", GOOD.replace(b'_count":0', b'_count":true')),
    "a count beyond reckoning": _http(
        "202 Accepted", GOOD.replace(b'_count":0', b'_count":1' + b"0" * 4000)
    ),
    "a job without a name": _http("202 Accepted", GOOD.replace(b"job-1", b"")),
    "a job with a NUL": _http("202 Accepted", GOOD.replace(b"job-1", rb"job\u0000")),
    "a job with a control sequence": _http("202 Accepted", GOOD.replace(b"job-1", rb"\u001b[2J")),
    "a job with half a character": _http("202 Accepted", GOOD.replace(b"job-1", rb"\ud800")),
    "a job as long as a book": _http("202 Accepted", GOOD.replace(b"job-1", b"j" * 500_000)),
    "another key": _http("202 Accepted", GOOD.replace(KEY.encode(), b"other")),
    "another body": _http("202 Accepted", STATUS),
    "a redirect": _http("307 Temporary Redirect", b"", "Location: https://elsewhere.invalid/"),
    "a problem as HTML": _http("403 Forbidden", PROBLEM, media_type="text/html"),
    "a problem without code": _http("403 Forbidden", b"{}", media_type="application/problem+json"),
    "a problem of another status": _http(
        "400 Bad Request", PROBLEM, media_type="application/problem+json"
    ),
    "an unknown problem": _http(
        "403 Forbidden", b'{"code":"moody"}', media_type="application/problem+json"
    ),
    "a problem with a NUL": _problem(rb'{"code":"a\u0000","detail":"b"}'),
    "a problem with half a character": _problem(rb'{"code":"moody","detail":"\udfff"}'),
    "a problem as long as a book": _problem(b'{"code":"moody","detail":"' + b"x" * 900_000 + b'"}'),
    "a duplicate with a NUL for a job": _problem(
        rb'{"code":"duplicate_manifest","job_id":"\u0000"}', "409 Conflict"
    ),
    "a refusal as a server error": _http(
        "500 Internal Server Error", PROBLEM, media_type="application/problem+json"
    ),
}


@pytest.mark.parametrize(
    "answer",
    [*NO_ANSWER.values(), *NOT_OF_THE_CONTRACT.values()],
    ids=[*NO_ANSWER, *NOT_OF_THE_CONTRACT],
)
def test_no_such_answer_says_whether_a_submission_was_taken(
    serve: Callable[[bytes], CannedServer], answer: bytes
) -> None:
    attempt = serve(answer).port().submit(KEY, BODY)

    assert attempt.disposition is Disposition.UNKNOWN
    assert attempt.job_id is None
    assert attempt.detail
    assert attempt.detail.isprintable()
    assert len(attempt.detail) <= 500


@pytest.mark.parametrize("answer", NO_ANSWER.values(), ids=NO_ANSWER)
def test_no_such_answer_says_that_nothing_was_found(
    serve: Callable[[bytes], CannedServer], answer: bytes
) -> None:
    port = serve(answer.replace(b"202 Accepted", b"404 Not Found")).port()

    with pytest.raises(GatewayUnavailable):
        port.lookup(idempotency_key=KEY)


@pytest.mark.parametrize(
    "answer",
    [
        _http("404 Not Found", b"no such page", media_type="text/plain"),
        _http("404 Not Found", b'{"code":"no_route"}', media_type="application/problem+json"),
    ],
    ids=["bare", "by a router"],
)
def test_a_404_that_is_not_the_contracts_does_not_say_that_nothing_was_found(
    serve: Callable[[bytes], CannedServer], answer: bytes
) -> None:
    port = serve(answer).port()

    with pytest.raises(GatewayUnavailable) as caught:
        port.lookup(idempotency_key=KEY)

    assert caught.value.reason == "gateway.malformed_answer"


def test_the_status_of_another_submission_is_no_answer(
    serve: Callable[[bytes], CannedServer],
) -> None:
    port = serve(_http("200 OK", GOOD)).port()

    for ask in (
        lambda: port.status("job-2"),
        lambda: port.lookup(manifest_sha256="other"),
        lambda: port.lookup(idempotency_key="other-key-0123456789"),
    ):
        assert _reason(ask) == "gateway.malformed_answer"
    assert port.status("job-1").job_id == "job-1"


def test_the_contract_s_own_answers_are_understood(serve: Callable[[bytes], CannedServer]) -> None:
    taken = serve(_http("202 Accepted", GOOD, "Retry-After: 7")).port().submit(KEY, BODY)
    refused = serve(_http("403 Forbidden", PROBLEM, media_type="application/problem+json"))

    assert (taken.disposition, taken.job_id, taken.retry_after_seconds) == (
        Disposition.TAKEN,
        "job-1",
        7,
    )
    attempt = refused.port().submit(KEY, BODY)
    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, "dry_run")


def test_a_redirect_is_not_followed(serve: Callable[[bytes], CannedServer]) -> None:
    target = serve(_http("202 Accepted", GOOD))
    redirecting = serve(_http("307 Temporary Redirect", b"", f"Location: {target.url}/v1"))
    port = redirecting.port()

    assert port.submit(KEY, BODY).disposition is Disposition.UNKNOWN
    assert _reason(lambda: port.lookup(idempotency_key=KEY)) == "gateway.redirected"
    assert (len(redirecting.requests), target.requests) == (2, [])


def test_a_redirect_is_named_without_its_control_characters(
    serve: Callable[[bytes], CannedServer],
) -> None:
    port = serve(_http("307 Temporary Redirect", b"", "Location: \x1b[2J")).port()

    with pytest.raises(GatewayUnavailable, match="307 to \ufffd\\[2J"):
        port.lookup(idempotency_key=KEY)


def test_promises_for_ever_can_be_reckoned_with(serve: Callable[[bytes], CannedServer]) -> None:
    identity = (
        b'{"contract":"apgms.release/gateway/1","environment":"e","key_id":"k",'
        b'"public_key_pem":"p","key_retention_seconds":9007199254740991,"guarantees":'
        b'{"lookup_is_authoritative":true,"lookup_settle_seconds":9007199254740991}}'
    )
    found = serve(_http("200 OK", identity)).port().identity()

    for seconds in (found.key_retention_seconds, found.lookup_settle_seconds):
        assert datetime.now(UTC) + timedelta(seconds=seconds) > datetime.now(UTC)
    beyond = identity.replace(b"9007199254740991", b"1" + b"0" * 30)
    assert _reason(serve(_http("200 OK", beyond)).port().identity) == "gateway.malformed_answer"


def test_another_contract_is_refused(serve: Callable[[bytes], CannedServer]) -> None:
    identity = (
        b'{"contract":"other/2","environment":"e","key_id":"k","public_key_pem":"p",'
        b'"key_retention_seconds":1,"guarantees":{}}'
    )
    port = serve(_http("200 OK", identity)).port()

    assert _reason(port.identity) == "gateway.other_contract"


@pytest.mark.parametrize("key", ["", "short", "with space 0123456789", "x" * 129, "line\n" * 4])
def test_a_key_outside_the_contract_is_a_mistake_of_the_caller(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency key"):
        open_gateway(URL, PINS).submit(key, BODY)
