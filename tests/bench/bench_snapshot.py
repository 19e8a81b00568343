# GNU General Public License v3.0+ (see COPYING)
"""The ledger snapshot against ``pg_dump -t owa_ledger | sha256sum`` (A), on one server, in one run.

A snapshot runs in a process of its own, whose time includes its connection. Its peak memory is what
the kernel says of this process and of the one that stores the objects, added; what they share counts
twice.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import psycopg

from ansible_collections.apgms.release.plugins.modules.ledger_snapshot import NICENESS
from services.postgres import BIN, get_server
from tests.bench.__main__ import Figure
from tests.conftest import APGMS_SCHEMA
from tests.ledgers import COLUMNS, make_stack

CHAINS = 5_000
NEW_ROWS = 1_000
TIMES = 3
INGEST_SECONDS = 3.0
ROUND = f"""
INSERT INTO owa_ledger ({", ".join(COLUMNS)})
SELECT abn, tax_type, period_id, gen_random_uuid(), amount, balance + amount, receipt, head,
       encode(sha256(convert_to(concat(head, receipt, balance + amount), 'UTF8')), 'hex')
FROM (SELECT (53004085616 + chain / 4)::text AS abn,
             CASE chain %% 2 WHEN 0 THEN 'GST' ELSE 'PAYGW' END AS tax_type,
             '2025-0' || (chain / 2 %% 2 + 1) AS period_id, 1 + (chain * 7919) %% 99991 AS amount,
             encode(sha256((%(round)s || ':' || chain)::bytea), 'hex') AS receipt
      FROM generate_series(0, %(chains)s - 1) AS chain) AS fresh
LEFT JOIN LATERAL (SELECT hash_after AS head, balance_after_cents AS before FROM owa_ledger l
    WHERE (l.abn, l.tax_type, l.period_id) = (fresh.abn, fresh.tax_type, fresh.period_id)
    ORDER BY id DESC LIMIT 1) AS last ON true
CROSS JOIN LATERAL (SELECT coalesce(before, 0) AS balance) AS known
"""

SPREAD = f"""
CREATE TABLE dense AS SELECT * FROM owa_ledger;
TRUNCATE owa_ledger;
INSERT INTO owa_ledger (id, {", ".join(COLUMNS)})
SELECT 2 * id, {", ".join(COLUMNS)} FROM dense ORDER BY id;
DROP TABLE dense;
ALTER SEQUENCE owa_ledger_id_seq INCREMENT BY 2;
SELECT setval('owa_ledger_id_seq', max(id)) FROM owa_ledger;
"""
"""The same rows, with a gap after every id, as where two tables share a sequence."""


class Taken(NamedTuple):
    """One snapshot in a process of its own."""

    seconds: float
    peak_mib: float


def measure(rows: int = 1_000_000) -> list[Figure]:
    """Return the figures for a ledger of ``rows`` rows."""
    folder = Path(tempfile.mkdtemp(prefix="apgms-bench-"))
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        return _measure(server.get_uri(), folder, rows)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(url: str, folder: Path, rows: int) -> list[Figure]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(APGMS_SCHEMA.read_bytes())
        _grow(connection, rows // 10)
    small = min(_fresh(url, folder / f"small{n}") for n in range(TIMES))
    with psycopg.connect(url, autocommit=True) as connection:
        _grow(connection, rows)
    baseline = min(_dump(url) for _ in range(TIMES))
    firsts = [_fresh(url, folder / f"large{n}") for n in range(TIMES)]
    stack = folder / f"large{TIMES - 1}"
    fulls = [_taken(url, stack, "full") for _ in range(TIMES)]
    first, again = min(firsts), min(fulls)
    megabytes = max(taken.peak_mib for taken in firsts + fulls)
    incremental = min(_with_new_rows(url, stack) for _ in range(TIMES))
    kept = _ingest_kept(url, stack)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SPREAD)
        connection.execute("VACUUM ANALYZE owa_ledger")
    gaps = [_fresh(url, folder / f"gaps{n}") for n in range(TIMES)]
    gapped = min(_with_new_rows(url, folder / f"gaps{TIMES - 1}") for _ in range(TIMES))
    slower = min(gaps).seconds / first.seconds
    megabytes_gaps = max(taken.peak_mib for taken in gaps)
    part = incremental / first.seconds
    return [
        _yardstick(f"snapshot: pg_dump | sha256sum of {rows} rows", baseline, "s"),
        _at_most("snapshot: first, verified, against pg_dump", first.seconds / baseline, "x", 2.5),
        _at_most("snapshot: verify full, against pg_dump", again.seconds / baseline, "x", 2.5),
        _at_most("snapshot: incremental, against the first", part, "x", 0.05),
        _at_most(f"snapshot: incremental with {NEW_ROWS} new rows", incremental, "s", 0.4),
        _at_most("snapshot: ten times the rows", first.seconds / small.seconds, "x", 11),
        _at_most("snapshot: peak memory", megabytes, "MiB", 256),
        _yardstick("snapshot: first, every second id missing, against none", slower, "x"),
        _at_most(f"snapshot: {NEW_ROWS} new rows, every second id missing", gapped, "s", 0.4),
        _at_most("snapshot: peak memory, every second id missing", megabytes_gaps, "MiB", 256),
        {"name": "snapshot: rate of an ingest beside it", "value": kept, "unit": "of alone",
         "limit": 0.8, "holds": kept >= 0.8},
    ]  # fmt: skip


def _yardstick(name: str, value: float, unit: str) -> Figure:
    return {"name": name, "value": round(value, 3), "unit": unit, "limit": None, "holds": True}


def _at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    value = round(value, 3)
    return {"name": name, "value": value, "unit": unit, "limit": limit, "holds": value <= limit}


def _grow(connection: psycopg.Connection[object], rows: int) -> None:
    """Append rows to the chains until the ledger has ``rows``."""
    [count] = connection.execute("SELECT count(*) FROM owa_ledger").fetchone()  # type: ignore[misc]
    while count < rows:
        _append(connection, min(CHAINS, rows - count), count)
        count += min(CHAINS, rows - count)
    connection.execute("VACUUM ANALYZE owa_ledger")


def _append(connection: psycopg.Connection[object], chains: int, number: int) -> None:
    connection.execute(ROUND, {"round": str(number), "chains": chains})  # type: ignore[arg-type]


def _dump(url: str) -> float:
    begin = time.monotonic()
    subprocess.run(
        f"'{BIN}/pg_dump' -t owa_ledger \"$URL\" | sha256sum",
        shell=True, check=True, capture_output=True, env={**os.environ, "URL": url},
    )  # fmt: skip
    return time.monotonic() - begin


def _fresh(url: str, folder: Path) -> Taken:
    folder.mkdir()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS apgms_release CASCADE")
    make_stack(url, folder)
    return _taken(url, folder, "incremental")


def _taken(url: str, folder: Path, verify: str) -> Taken:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_take, url, folder, verify).result()


def _take(url: str, folder: Path, verify: str) -> Taken:
    os.nice(NICENESS)
    stack = make_stack(url, folder)
    begin = time.monotonic()
    stack.snapshot(verify=verify)
    seconds = time.monotonic() - begin
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = sum(resource.getrusage(one).ru_maxrss for one in processes)
    return Taken(seconds, peak / 1024)


def _with_new_rows(url: str, folder: Path) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        _append(connection, NEW_ROWS, time.monotonic_ns())
    return _taken(url, folder, "incremental").seconds


def _ingest_kept(url: str, folder: Path) -> float:
    """Return the rate of an ingest beside full verifications, over its rate alone."""
    nice = {"mp_context": get_context("spawn"), "initializer": os.nice, "initargs": (NICENESS,)}
    with _ingest(url), ProcessPoolExecutor(1, **nice) as pool:  # type: ignore[arg-type]
        alone = pool.submit(_rate, url, folder, snapshots=False).result()
        beside = pool.submit(_rate, url, folder, snapshots=True).result()
    return round(beside / alone, 3)


def _rate(url: str, folder: Path, *, snapshots: bool) -> float:
    """Return the ledger rows a second that an ingest adds, while snapshots run or do not."""
    stack = make_stack(url, folder)
    [[before]] = stack.execute("SELECT max(id) FROM owa_ledger")
    begin = time.monotonic()
    while time.monotonic() - begin < INGEST_SECONDS:
        if snapshots:
            stack.snapshot(verify="full")
        else:
            time.sleep(INGEST_SECONDS)
    seconds = time.monotonic() - begin
    [[after]] = stack.execute("SELECT max(id) FROM owa_ledger")
    return float(after - before) / seconds


@contextmanager
def _ingest(url: str) -> Iterator[None]:
    """Insert small batches until the block ends."""
    stop = threading.Event()

    def insert() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                _append(connection, 20, time.monotonic_ns())

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
