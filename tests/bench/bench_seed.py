# GNU General Public License v3.0+ (see COPYING)
"""The seed: ledger rows a second, and seed and recomputation of a prototype of 100 entities."""

from __future__ import annotations

import base64
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ed25519

from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.check_seed import (
    Expectation,
    check_seed,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed import (
    SeedRequest,
    seed_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_shipped,
)
from services.postgres import get_server
from services.rates.__main__ import SHIPPED
from tests.bench.__main__ import Figure
from tests.conftest import APGMS_SCHEMA

if TYPE_CHECKING:
    from ansible_collections.apgms.release.plugins.module_utils.ports.database import Connection

ROWS = 500_000
ROWS_AN_ENTITY = 101
"""Ledger rows that an entity has in a month, on average."""
MIN_ROWS_A_SECOND = 100_000
MAX_PROTOTYPE_SECONDS = 5.0
PERIODS = ["2025-09"]


def measure(rows: int = ROWS) -> list[Figure]:
    """Return rows a second for about ``rows`` ledger rows, and the seconds of a prototype."""
    with _database() as connection:
        prototype = _prototype_seconds(connection)
        _empty(connection)
        rate = _rows_a_second(connection, max(rows // ROWS_AN_ENTITY, 3))
    return [
        Figure(
            name="seed: ledger rows written",
            value=round(rate),
            unit="rows/s",
            limit=MIN_ROWS_A_SECOND,
            holds=rate >= MIN_ROWS_A_SECOND,
        ),
        Figure(
            name="seed: 100 entities seeded and recomputed",
            value=round(prototype, 2),
            unit="s",
            limit=MAX_PROTOTYPE_SECONDS,
            holds=prototype <= MAX_PROTOTYPE_SECONDS,
        ),
    ]


def _rows_a_second(connection: Connection, entities: int) -> float:
    began = time.perf_counter()
    written = _seed(connection, entities, ed25519.Ed25519PrivateKey.generate())
    return written / (time.perf_counter() - began)


def _prototype_seconds(connection: Connection) -> float:
    key = ed25519.Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    catalog = newest_shipped(SHIPPED, PERIODS)
    began = time.perf_counter()
    _seed(connection, 100, key)
    checked = check_seed(
        connection, Expectation(100, PERIODS, catalog.data, {"bench": public}), limit=1
    )
    if checked.total:
        raise SystemExit(f"bench: the seed does not hold: {checked.mismatches[0]}")
    return time.perf_counter() - began


def _seed(connection: Connection, entities: int, key: ed25519.Ed25519PrivateKey) -> int:
    seeded = seed_ledger(
        connection,
        SystemClock(),
        SeedRequest("proto", 1, entities, PERIODS, None),
        newest_shipped(SHIPPED, PERIODS),
        key.sign,
        check_mode=False,
    )
    return seeded.after["owa_ledger"]


def _empty(connection: Connection) -> None:
    connection.execute(
        "TRUNCATE owa_ledger, periods, rpt_tokens, audit_log, remittance_destinations,"
        " apgms_sandbox.payroll_line, apgms_sandbox.trade_line"
    )
    connection.execute("CHECKPOINT")


@contextmanager
def _database() -> Iterator[Connection]:
    folder = Path(tempfile.mkdtemp(prefix="apgms-bench-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        with connect(server.get_uri(), None, purpose="bench") as connection:
            connection.execute(APGMS_SCHEMA.read_bytes())
            yield connection
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
