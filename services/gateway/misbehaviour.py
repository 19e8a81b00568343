# GNU General Public License v3.0+ (see COPYING)
"""How each fault is done: to the connection, to the request, or to its answer."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .contract import Problem, SigningKey, canonical, receipt_of
from .faults import Fault, Plan
from .state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

PAGE = b"<!doctype html><title>Welcome</title><p>Please sign in to the network."
ELSEWHERE = "https://elsewhere.invalid/v1"
JSON = [(b"content-type", b"application/json")]


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def deliver(self, send: Send) -> None:
        """Send it as it is."""
        length = (b"content-length", str(len(self.body)).encode())
        headers = [header for header in self.headers if header[0] != b"content-length"]
        await send(
            {"type": "http.response.start", "status": self.status, "headers": [*headers, length]}
        )
        await send({"type": "http.response.body", "body": self.body})

    def wire(self) -> bytes:
        """Return its bytes as HTTP/1.1."""
        head = b"".join(b"%s: %s\r\n" % header for header in self.headers)
        return b"HTTP/1.1 %d Fault\r\n%s\r\n%s" % (self.status, head, self.body)


class Misbehaving:
    """The application, with the plan's faults between it and its clients."""

    def __init__(self, app: Application, plan: Plan, state: State, key: SigningKey) -> None:
        self._app = app
        self._plan = plan
        self._forger = Forger(state, key)
        self._transports: dict[Any, asyncio.Transport] = {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        point = _point(scope)
        fault = self._plan.take(point) if point else None
        if fault is None:
            await self._app(scope, receive, send)
        else:
            exchange = Exchange(
                self._app, scope, receive, send, self._transports[scope["client"]], self._forger
            )
            await _ACTIONS.get(fault.fault, _alter)(exchange, fault)

    def protocol(self) -> type[H11Protocol]:
        """Return uvicorn's HTTP protocol, with the plan's faults of connections."""
        plan, transports = self._plan, self._transports

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                transports[self.client] = transport
                if plan.take("connect"):
                    _abort(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.client, None)
                super().connection_lost(exc)

        return Protocol

    def handshake(self, *_arguments: Any) -> int | None:
        """Fail a TLS handshake when the plan says so (``SSLContext.sni_callback``)."""
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR if self._plan.take("handshake") else None


class Forger:
    """Makes receipts that a careful client must not believe."""

    def __init__(self, state: State, key: SigningKey) -> None:
        self._state = state
        self._key = key
        self._stranger = SigningKey.generate()

    def forge(self, fault: str, envelope: bytes) -> bytes:
        """Return what is handed out in place of ``envelope``."""
        receipt = receipt_of(envelope)
        if fault == "duplicate_receipt":
            return self._key.envelope(receipt)
        if fault == "foreign_receipt":
            return self._stranger.envelope(receipt)
        if fault == "forged_receipt":
            return self._stranger.envelope(receipt, key_id=self._key.key_id)
        if fault == "replayed_receipt":
            return self._other_receipt(receipt)
        return _altered(envelope)

    def _other_receipt(self, receipt: dict[str, Any]) -> bytes:
        stored = self._state.other_receipt(receipt["receipt_id"])
        return stored or self._key.envelope({**receipt, "manifest_sha256": "0" * 64})


@dataclass
class Exchange:
    """One request on its way to the application, and what can go wrong with it."""

    app: Application
    scope: Any
    receive: Receive
    send: Send
    transport: asyncio.Transport
    forger: Forger

    async def answer(self) -> Answer:
        """Let the application carry the request out, and keep the answer."""
        answer = Answer(0, [], b"")

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self.app(self.scope, self.receive, keep)
        return answer

    async def settle(self, fault: Fault) -> None:
        """Carry the request out, or only read it, as the fault says."""
        if fault.taken:
            await self.answer()
            return
        while (await self.receive()).get("more_body"):
            pass

    async def reset(self) -> None:
        """Break the connection."""
        _abort(self.transport)
        await asyncio.sleep(0.01)

    async def write_raw(self, chunks: list[bytes], pause: float) -> None:
        """Write to the connection past the HTTP server, then close it."""
        for chunk in chunks:
            if self.transport.is_closing():
                return
            self.transport.write(chunk)
            await asyncio.sleep(pause)
        self.transport.close()
        await asyncio.sleep(0.01)


async def _reset(exchange: Exchange, _fault: Fault) -> None:
    await exchange.reset()


async def _reset_mid_upload(exchange: Exchange, _fault: Fault) -> None:
    await exchange.receive()
    await exchange.reset()


async def _lose_response(exchange: Exchange, fault: Fault) -> None:
    await exchange.settle(fault)
    await exchange.reset()


async def _html(exchange: Exchange, fault: Fault) -> None:
    await exchange.settle(fault)
    await Answer(200, [(b"content-type", b"text/html")], PAGE).deliver(exchange.send)


async def _nothing(exchange: Exchange, fault: Fault) -> None:
    await exchange.settle(fault)
    await Answer(200, JSON, b"").deliver(exchange.send)


async def _half_body(exchange: Exchange, _fault: Fault) -> None:
    wire = (await exchange.answer()).wire()
    await exchange.write_raw([wire[: -len(wire) // 4]], 0)


async def _slow_drip(exchange: Exchange, fault: Fault) -> None:
    wire = (await exchange.answer()).wire()
    size = max(1, len(wire) // 50)
    chunks = [wire[at : at + size] for at in range(0, len(wire), size)]
    await exchange.write_raw(chunks, fault.seconds / len(chunks))


async def _redirect(exchange: Exchange, fault: Fault) -> None:
    await exchange.settle(fault)
    headers = [(b"location", ELSEWHERE.encode())]
    await Answer(307, headers, b"").deliver(exchange.send)


async def _retry_later(exchange: Exchange, fault: Fault) -> None:
    await exchange.settle(fault)
    value = {
        "seconds": "1",
        "date": formatdate(time.time() + 2, usegmt=True),
        "past": formatdate(time.time() - 86400, usegmt=True),
        "huge": "99999999999",
        "garbage": "soon; maybe",
        "none": None,
    }[fault.retry_after]
    headers = [] if value is None else [(b"retry-after", value.encode())]
    code = "too_many_requests" if fault.status == 429 else "unavailable"
    await _deliver_problem(exchange, Problem(code, "try again later"), headers, fault.status)


async def _conflict(exchange: Exchange, fault: Fault) -> None:
    fault.taken = False
    await exchange.settle(fault)
    code = {
        "already_running": "key_in_progress",
        "key_reused": "key_reused",
        "duplicate_without_pointer": "duplicate_manifest",
        "not_found": "not_found",
    }[fault.fault]
    await _deliver_problem(exchange, Problem(code, "planned"), [])


async def _alter(exchange: Exchange, fault: Fault) -> None:
    """Hand out a changed status, or a changed receipt."""
    answer = await exchange.answer()
    if answer.status in (200, 202):
        if fault.point == "receipt":
            answer.body = exchange.forger.forge(fault.fault, answer.body)
        else:
            answer.body = canonical({**json.loads(answer.body), **_SHOWN[fault.fault]})
    await answer.deliver(exchange.send)


_UNDECIDED: dict[str, Any] = {
    "receipt_id": None,
    "accepted_count": 0,
    "rejected_count": 0,
    "rejections": [],
    "next_rejection": None,
}
_SHOWN: dict[str, dict[str, Any]] = {
    "still_running": {**_UNDECIDED, "state": "running"},
    "accepted_early": {**_UNDECIDED, "state": "accepted"},
    "foreign_acknowledgement": {
        "job_id": f"job-{'0' * 32}",
        "idempotency_key": "foreign-key-00000000",
        "manifest_sha256": "0" * 64,
        "body_sha256": "0" * 64,
    },
}


_ACTIONS: dict[str, Callable[[Exchange, Fault], Awaitable[None]]] = {
    "reset": _reset,
    "reset_mid_upload": _reset_mid_upload,
    "lose_response": _lose_response,
    "html": _html,
    "nothing": _nothing,
    "half_body": _half_body,
    "slow_drip": _slow_drip,
    "redirect": _redirect,
    "retry_later": _retry_later,
    "already_running": _conflict,
    "key_reused": _conflict,
    "duplicate_without_pointer": _conflict,
    "not_found": _conflict,
}


async def _deliver_problem(
    exchange: Exchange,
    problem: Problem,
    headers: list[tuple[bytes, bytes]],
    status: int | None = None,
) -> None:
    status = status or problem.status
    body = canonical({**problem.body, "status": status})
    kind = (b"content-type", b"application/problem+json")
    await Answer(status, [kind, *headers], body).deliver(exchange.send)


def _altered(envelope: bytes) -> bytes:
    payload = canonical({**receipt_of(envelope), "accepted_cents": "1"})
    return canonical({**json.loads(envelope), "payload": base64.b64encode(payload).decode()})


def _point(scope: Any) -> str | None:
    if scope["type"] != "http":
        return None
    path = scope["path"].removeprefix("/v1/")
    if path == "identity":
        return "identity"
    if path == "submissions":
        return "submit" if scope["method"] == "POST" else "lookup"
    return {"submissions": "status", "receipts": "receipt"}.get(path.partition("/")[0])


def _abort(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
