# GNU General Public License v3.0+ (see COPYING)
"""Run the sandbox gateway: ``python -m services.gateway --help``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sqlite3
import ssl
from pathlib import Path
from typing import Any

import uvicorn

from .admin import ShiftedClock, build_admin
from .app import Queue, Routes, Terms, build_app
from .contract import STACK_OF_ENVIRONMENT, SigningKey
from .faults import Plan
from .intake import Intake, Limits
from .misbehaviour import Misbehaving
from .state import State

LOOPBACK = "127.0.0.1"


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    arguments = parse_arguments()
    try:
        servers = build_servers(arguments)
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        raise SystemExit(f"The gateway cannot start: {error}") from None
    announce(arguments, [listener.getsockname()[1] for _, listener in servers])
    asyncio.run(serve(servers))


def build_servers(arguments: argparse.Namespace) -> list[tuple[uvicorn.Server, socket.socket]]:
    """Return the servers and their sockets: the contract's, and the administration's if asked for.

    :raises OSError, ValueError, sqlite3.DatabaseError: where a file or the port cannot be used
    """
    key = SigningKey.load(arguments.key)
    terms = read_terms(arguments)
    plan, clock = Plan(), ShiftedClock()
    state = State(arguments.state, clock, terms.key_retention_seconds)
    uploads = empty_folder(arguments.state.with_name(arguments.state.name + ".uploads"))
    limits = Limits(arguments.max_bytes, terms.settle_seconds)
    intake = Intake(state, terms.environment, uploads, limits, plan.rows_to_reject)
    queue = Queue(state, terms, key)
    app = Misbehaving(
        build_app(Routes(state, intake, queue, terms, key), queue, terms), plan, state, key
    )
    servers = [(public_server(app, arguments), bind(arguments.host, arguments.port))]
    if arguments.admin:
        servers.append((plain_server(build_admin(state, plan, clock)), bind(LOOPBACK, 0)))
    return servers


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="file that keeps everything")
    parser.add_argument("--key", type=Path, required=True, help="PEM, ECDSA P-256: signs receipts")
    parser.add_argument("--environment", choices=sorted(STACK_OF_ENVIRONMENT), required=True)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--ready-file", type=Path, help="gets url, admin_url and pid as JSON")
    parser.add_argument("--admin", action="store_true", help="open the tests' door on loopback")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--client-ca", type=Path, help="demand client certificates of this CA")
    parser.add_argument("--token-file", type=Path, help="demand this bearer token")
    parser.add_argument("--key-retention", type=int, default=30 * 86400, metavar="SECONDS")
    parser.add_argument("--settle", type=int, default=120, metavar="SECONDS")
    parser.add_argument("--processing", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--poll", type=int, default=1, metavar="SECONDS")
    parser.add_argument("--max-bytes", type=int, default=1 << 30)
    return parser.parse_args()


def read_terms(arguments: argparse.Namespace) -> Terms:
    """Return what the command line says of the gateway's terms."""
    token = arguments.token_file and arguments.token_file.read_text().strip()
    return Terms(
        arguments.environment,
        arguments.key_retention,
        arguments.settle,
        arguments.processing,
        arguments.poll,
        token,
    )


def empty_folder(path: Path) -> Path:
    """Return the folder of running uploads, without those that a kill left behind."""
    path.mkdir(exist_ok=True)
    for left in path.iterdir():
        left.unlink()
    return path


def public_server(app: Misbehaving, arguments: argparse.Namespace) -> uvicorn.Server:
    """Return the server of the contract."""
    config = uvicorn.Config(
        app,
        http=app.protocol(),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        ssl_certfile=arguments.tls_cert,
        ssl_keyfile=arguments.tls_key,
        ssl_ca_certs=arguments.client_ca and str(arguments.client_ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED if arguments.client_ca else ssl.CERT_NONE,
    )
    config.load()
    if config.ssl:
        config.ssl.sni_callback = app.handshake
    return uvicorn.Server(config)


def plain_server(app: Any) -> uvicorn.Server:
    """Return a server without faults."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    listener = socket.create_server((host, port), backlog=128)
    listener.setblocking(False)
    return listener


def announce(arguments: argparse.Namespace, ports: list[int]) -> None:
    """Print where the gateway listens, and write it to the ready file."""
    scheme = "https" if arguments.tls_cert else "http"
    ready = {"url": f"{scheme}://{arguments.host}:{ports[0]}", "pid": os.getpid()}
    if len(ports) > 1:
        ready["admin_url"] = f"http://{LOOPBACK}:{ports[1]}"
    line = json.dumps(ready)
    print(line, flush=True)
    if arguments.ready_file:
        draft = arguments.ready_file.with_suffix(".draft")
        draft.write_text(line + "\n")
        draft.replace(arguments.ready_file)


async def serve(servers: list[tuple[uvicorn.Server, socket.socket]]) -> None:
    """Serve on all sockets until told to stop."""
    await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in servers))


if __name__ == "__main__":
    main()
