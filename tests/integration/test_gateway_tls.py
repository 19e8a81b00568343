# GNU General Public License v3.0+ (see COPYING)
"""TLS verified by default, client certificates, bearer tokens, proxies."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    Disposition,
    GatewayUnavailable,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import (
    HttpGateway,
    open_gateway,
)
from tests.gateway_process import GatewayProcess
from tests.submissions import make_submission

TOKEN = "s3cret-token-of-a-test"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one test run."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> str:
        return str(self.folder / "ca.pem")

    def issue(self, name: str, *alternatives: x509.GeneralName) -> tuple[str, str]:
        """Return the paths of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(alternatives or [x509.DNSName(name)])
        certificate = _builder(name, self.certificate.subject, key).add_extension(names, False)
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(_pem(certificate.sign(self.key, hashes.SHA256())))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(paths[0]), str(paths[1])


def _authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    builder = _builder("test authority", name, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    certificate = builder.sign(key, hashes.SHA256())
    folder.mkdir()
    (folder / "ca.pem").write_bytes(_pem(certificate))
    return Authority(folder, key, certificate)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(hours=1),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return _authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def process(ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that demands a client certificate and a token."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "token").write_text(f"{TOKEN}\n")
    cert, key = ca.issue("gateway.example", LOOPBACK, x509.DNSName("gateway.example"))
    options = ("--tls-cert", cert, "--tls-key", key, "--client-ca", ca.path)
    process = GatewayProcess(
        folder, options=(*options, "--token-file", str(folder / "token"))
    ).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def client(ca: Authority) -> dict[str, Any]:
    """The right way to call it."""
    cert, key = ca.issue("client")
    return {"ca": ca.path, "client_cert": cert, "client_key": key, "token": TOKEN}


def _unreachable(port: HttpGateway) -> str:
    with pytest.raises(GatewayUnavailable) as caught:
        port.identity()
    assert caught.value.reason == "gateway.unreachable"
    return str(caught.value)


def test_certificate_client_certificate_and_token_let_in(
    process: GatewayProcess, client: dict[str, Any]
) -> None:
    submission = make_submission("tls")
    port = open_gateway(process.url, process.pins, **client)

    assert port.identity().environment == "production-like"
    attempt = port.submit(submission.idempotency_key, submission.body)
    assert attempt.disposition is Disposition.TAKEN


def test_the_certificate_is_verified_by_default(
    process: GatewayProcess, client: dict[str, Any]
) -> None:
    port = open_gateway(process.url, process.pins, **{**client, "ca": None})
    submission = make_submission("unverified")

    assert "certificate verify failed" in _unreachable(port)
    attempt = port.submit(submission.idempotency_key, submission.body)
    assert attempt.disposition is Disposition.NOT_SENT


def test_a_certificate_of_another_authority_is_refused(
    process: GatewayProcess, client: dict[str, Any], tmp_path: Path
) -> None:
    stranger = _authority(tmp_path / "stranger")
    port = open_gateway(process.url, process.pins, **{**client, "ca": stranger.path})

    assert "certificate verify failed" in _unreachable(port)


def test_a_certificate_of_another_host_is_refused(
    process: GatewayProcess, client: dict[str, Any]
) -> None:
    url = process.url.replace("127.0.0.1", "localhost")
    pins = replace(process.pins, hosts=(url.removeprefix("https://"),))

    assert "certificate verify failed" in _unreachable(open_gateway(url, pins, **client))


def test_without_a_client_certificate_nobody_is_let_in(
    process: GatewayProcess, client: dict[str, Any]
) -> None:
    nobody = {**client, "client_cert": None, "client_key": None}

    _unreachable(open_gateway(process.url, process.pins, **nobody))


def test_a_client_certificate_of_another_authority_is_not_let_in(
    process: GatewayProcess, client: dict[str, Any], tmp_path: Path
) -> None:
    cert, key = _authority(tmp_path / "stranger").issue("client")

    _unreachable(
        open_gateway(
            process.url, process.pins, **{**client, "client_cert": cert, "client_key": key}
        )
    )


@pytest.mark.parametrize("token", [None, "another-s3cret-token"])
def test_a_wrong_token_is_refused_and_never_shown(
    process: GatewayProcess, client: dict[str, Any], token: str | None
) -> None:
    port = open_gateway(process.url, process.pins, **{**client, "token": token})
    submission = make_submission("unauthorised")

    with pytest.raises(ApgmsError) as caught:
        port.identity()
    attempt = port.submit(submission.idempotency_key, submission.body)

    assert caught.value.reason == "gateway.refused"
    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, "unauthorised")
    assert "s3cret" not in f"{caught.value}{caught.value.details}{attempt}"


def test_a_failed_handshake_sends_nothing(process: GatewayProcess, client: dict[str, Any]) -> None:
    port = open_gateway(process.url, process.pins, **client)
    submission = make_submission("handshake")
    process.plan({"point": "handshake", "fault": "tls_failure", "times": 2})

    attempt = port.submit(submission.idempotency_key, submission.body)

    assert attempt.disposition is Disposition.NOT_SENT
    _unreachable(port)
    assert port.lookup(idempotency_key=submission.idempotency_key) is None


def test_an_encrypted_key_is_named_and_asks_nothing(
    process: GatewayProcess, client: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "encrypted.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )

    with pytest.raises(ApgmsError) as caught:
        open_gateway(process.url, process.pins, **{**client, "client_key": str(path)})

    assert caught.value.reason == "gateway.tls_file"
    assert "encrypted" in str(caught.value)


class ConnectProxy:
    """A proxy that tunnels whatever it is asked for to one address, or refuses."""

    def __init__(self, target: str, refusal: bytes | None = None) -> None:
        host, _, port = target.partition(":")
        self.requests: list[str] = []
        self._target = host, int(port)
        self._refusal = refusal
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(connection.recv(1 << 16).decode())
            if self._refusal:
                connection.sendall(self._refusal)
                connection.close()
            else:
                self._tunnel(connection)

    def _tunnel(self, connection: socket.socket) -> None:
        upstream = socket.create_connection(self._target)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for source, sink in ((connection, upstream), (upstream, connection)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


MakeProxy = Callable[..., ConnectProxy]


@pytest.fixture
def proxy(process: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeProxy]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    proxies: list[ConnectProxy] = []

    def make(refusal: bytes | None = None, prefix: str = "http://") -> ConnectProxy:
        proxies.append(ConnectProxy(process.url.removeprefix("https://"), refusal))
        monkeypatch.setenv("https_proxy", prefix + proxies[-1].address)
        return proxies[-1]

    yield make
    for one in proxies:
        one.close()


def _through_the_proxy(process: GatewayProcess, client: dict[str, Any]) -> HttpGateway:
    pins = replace(process.pins, hosts=("gateway.example:443",))
    return open_gateway("https://gateway.example", pins, **client)


def test_a_proxy_is_honoured_and_sees_neither_token_nor_content(
    process: GatewayProcess, client: dict[str, Any], proxy: MakeProxy
) -> None:
    used = proxy(prefix="http://user:pass%20word@")

    assert _through_the_proxy(process, client).identity().environment == "production-like"
    (request,) = used.requests
    credentials = base64.b64encode(b"user:pass word").decode()
    assert request.startswith("CONNECT gateway.example:443 HTTP/1.")
    assert f"Proxy-Authorization: Basic {credentials}\r\n" in request
    assert "Bearer" not in request


def test_a_proxy_that_refuses_means_that_nothing_was_sent(
    process: GatewayProcess, client: dict[str, Any], proxy: MakeProxy
) -> None:
    proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    submission = make_submission("proxy")
    port = _through_the_proxy(process, client)

    attempt = port.submit(submission.idempotency_key, submission.body)

    assert attempt.disposition is Disposition.NOT_SENT
    assert "407" in attempt.detail


def test_no_proxy_and_loopback_go_past_the_proxy(
    process: GatewayProcess,
    client: dict[str, Any],
    proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = proxy()
    monkeypatch.setenv("no_proxy", ".example")

    _unreachable(_through_the_proxy(process, client))  # no such host
    assert open_gateway(process.url, process.pins, **client).identity()
    assert used.requests == []


def test_a_proxy_address_that_cannot_be_used_is_refused(
    process: GatewayProcess, client: dict[str, Any], proxy: MakeProxy
) -> None:
    proxy(prefix="socks5://")

    with pytest.raises(ApgmsError) as caught:
        _through_the_proxy(process, client).identity()

    assert caught.value.reason == "gateway.proxy"
