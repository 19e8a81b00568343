# GNU General Public License v3.0+ (see COPYING)
"""HTTP as the gateway needs it: TLS, proxies, streamed bodies, bounded answers, no redirects.

What matters here is what is known when something breaks: whether any byte of the request went out,
and whether the whole answer came back. One connection a request.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from ..errors import ApgmsError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""How long the other side may neither send nor take a byte."""
ANSWER_SECONDS = 60.0
"""How long a request may take as a whole, besides the time for its body."""
SLOWEST_BYTES_PER_SECOND = 100_000
"""What the time for the body is reckoned with."""
MAX_RETRY_AFTER_SECONDS = 3600.0
CHUNK_BYTES = 1 << 16
MAX_SHOWN = 500
"""How many characters of what the other side said are shown."""


class NotConnected(Exception):
    """There was no connection: no byte of the request left this machine."""


class Broken(Exception):
    """Bytes went out, and no whole answer came back."""


@dataclass(frozen=True)
class Limits:
    """How long a request may take, in seconds."""

    connect: float = CONNECT_SECONDS
    stall: float = STALL_SECONDS
    answer: float = ANSWER_SECONDS


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def retry_after(self, now: datetime) -> float | None:
        """Return the seconds that Retry-After asks for, clamped; None where it says nothing."""
        return retry_after(self.headers.get("retry-after"), _date(self.headers.get("date")) or now)


class HttpClient:
    """Requests to one server.

    :param url: base address; loopback hosts are never reached through a proxy
    :raises ApgmsError: ``gateway.tls_file`` where a certificate or key cannot be loaded
    """

    def __init__(
        self,
        url: str,
        *,
        ca: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path.rstrip("/")
        self._tls = _tls(ca, client_cert, client_key) if parts.scheme == "https" else None
        self._limits = limits or Limits()

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: Iterable[bytes] = (),
        length: int = 0,
        max_bytes: int,
    ) -> Answer:
        """Send one request and return its whole answer; redirects are answers like any other.

        :param length: of ``body``, in bytes
        :param max_bytes: how long the answer's body may be
        :raises NotConnected: where no byte went out
        :raises Broken: where the answer is missing, cut short, too long or too late
        """
        connection = self._connect()
        try:
            with _deadline(connection, self._limits.answer + length / SLOWEST_BYTES_PER_SECOND):
                whole = _send(connection, method, self._path + path, headers, body)
                answer = _receive(connection, max_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_words(error)) from error
        finally:
            connection.close()
        if not whole and answer.status < 400:
            raise Broken(f"answer {answer.status} before the whole request was read")
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._connection()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotConnected(_words(error)) from error
        connection.sock.settimeout(self._limits.stall)
        return connection

    def _connection(self) -> http.client.HTTPConnection:
        timeout = self._limits.connect
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        proxy = _proxy(self._host)
        if proxy is None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._tls
            )
        connection = http.client.HTTPSConnection(
            proxy.host, proxy.port, timeout=timeout, context=self._tls
        )
        connection.set_tunnel(self._host, self._port, proxy.headers)
        return connection


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After field (RFC 9110, 10.2.3) asks to wait.

    :return: from 0 to :data:`MAX_RETRY_AFTER_SECONDS`; None where the field is absent or unreadable
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:400])
    else:
        moment = _date(text)
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@dataclass(frozen=True)
class _Proxy:
    host: str
    port: int
    headers: dict[str, str]


def _proxy(host: str) -> _Proxy | None:
    address = urllib.request.getproxies().get("https")
    if not address or host in LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(address if "//" in address else f"http://{address}")
    if parts.scheme != "http" or not parts.hostname:
        raise ApgmsError(
            "gateway.proxy",
            "The proxy's address cannot be used",
            where="environment variable https_proxy",
            why="it is not http://HOST:PORT",
            mend="correct https_proxy, or name the gateway's host in no_proxy",
        )
    return _Proxy(parts.hostname, parts.port or 80, _credentials(parts.username, parts.password))


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _tls(ca: str | None, client_cert: str | None, client_key: str | None) -> ssl.SSLContext:
    file = ca
    try:
        context = ssl.create_default_context(cafile=ca)
        if client_cert:
            file = client_cert
            context.load_cert_chain(client_cert, client_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ApgmsError(
            "gateway.tls_file",
            "A TLS certificate or key for the gateway cannot be loaded",
            where=str(file),
            why=_words(error),
            mend="name readable PEM files in apgms_gateway_ca, _client_cert and _client_key;"
            " the key unencrypted, and of that certificate",
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted")


@contextmanager
def _deadline(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Cut the connection off after ``seconds``: a slow drip defeats timeouts of single reads.

    :raises TimeoutError: where what stands inside seemed to end well, but was cut off
    """
    # a descriptor of its own, because the TLS layer is not to be touched from another thread
    handle = socket.socket(fileno=os.dup(connection.sock.fileno()))
    expired = threading.Event()
    timer = threading.Timer(seconds, _shut, [handle, expired])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        handle.close()
    if expired.is_set():
        raise TimeoutError(f"cut off after {seconds:.0f} s")


def _shut(handle: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Iterable[bytes],
) -> bool:
    """Return whether all was taken; a server may answer, and close, before that."""
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in {**headers, "Accept-Encoding": "identity", "Connection": "close"}.items():
        connection.putheader(name, value)
    chunks = iter(body)
    connection.endheaders()
    for chunk in chunks:
        try:
            connection.send(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


def _receive(connection: http.client.HTTPConnection, max_bytes: int) -> Answer:
    response = connection.getresponse()
    try:
        body = _read_body(response, max_bytes)
    except ValueError as error:
        raise http.client.HTTPException("a chunk of the answer has no proper length") from error
    headers = {name.lower(): value for name, value in response.getheaders()}
    stated = headers.get("content-length", str(len(body)))
    if stated != str(len(body)):
        raise http.client.HTTPException(f"{len(body)} of {stated} bytes of the answer arrived")
    if headers.get("content-encoding", "identity") != "identity":
        raise http.client.HTTPException("the answer is compressed, which was not asked for")
    return Answer(response.status, headers, body)


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    body = bytearray()
    while chunk := response.read(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise http.client.HTTPException(f"the answer is longer than {max_bytes} bytes")
    return bytes(body)


def printable(text: str) -> str:
    """Return what the other side said as a short line, fit for a terminal and a database."""
    line = " ".join(text[:MAX_SHOWN].split())
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


def _words(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}")
