# GNU General Public License v3.0+ (see COPYING)
"""A rollback that mirrors a tenth of the ledger: its time and its peak memory.

The ledger is written by the database itself; the rollback runs in a process of its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Ledger,
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.image import write_image
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.snapshot import (
    take_snapshot,
)
from services.keys import policy_document, write_policy
from services.postgres import get_server
from tests import rollbacks
from tests.approvals import make_manifest
from tests.bench.__main__ import Figure
from tests.conftest import APGMS_SCHEMA
from tests.faults.stack import Stack

if TYPE_CHECKING:
    from ansible_collections.apgms.release.plugins.module_utils.ports.database import Connection

ROWS = 1_000_000
ROWS_BEFORE, ROWS_AFTER = 45, 5
"""Rows of each chain before and after the target; an entity's month is about this long."""
MAX_SECONDS = 10.0
MAX_MEBIBYTES = 256.0


class NoGateway:
    """A rollback talks to no gateway."""

    counters: dict[str, int] = {}


def measure(rows: int = ROWS) -> list[Figure]:
    """Return seconds and peak memory of a rollback of a tenth of ``rows`` rows."""
    with _stack() as stack:
        target = _prepare(stack, rows // (ROWS_BEFORE + ROWS_AFTER))
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(stack.folder), stack.database_url, target],
            stdout=subprocess.PIPE,
            check=True,
        )
    found = json.loads(done.stdout)
    what = f"{found['mirrored']} of {found['rows']} rows"
    return [
        _figure(f"rollback: {what} planned", found["plan"], "s"),
        _figure(f"rollback: {what} mirrored and proven", found["run"], "s"),
        _figure("rollback: peak memory", found["mebibytes"], "MiB", MAX_MEBIBYTES),
    ]


def _figure(name: str, value: float, unit: str, limit: float = MAX_SECONDS) -> Figure:
    return Figure(name=name, value=round(value, 2), unit=unit, limit=limit, holds=value <= limit)


def _run(folder: str, database_url: str, target: str) -> dict[str, Any]:
    """Plan and roll back; return the figures of this process."""
    stack = _stack_at(Path(folder), database_url)
    began = time.perf_counter()
    plan = rollbacks.predict(stack, target).plan
    planned = time.perf_counter()
    assert plan is not None
    done = rollbacks.carry_out(stack, target, plan.digest)
    ended = time.perf_counter()
    assert done.plan is not None
    return {
        "plan": planned - began,
        "run": ended - planned,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mirrored": done.plan.totals()["entries"],
        "rows": done.plan.tree_size,
    }


@contextmanager
def _stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="apgms-bench-"))
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield _stack_at(folder / "prod", server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _stack_at(folder: Path, database_url: str) -> Stack:
    return Stack(folder, database_url, NoGateway())  # type: ignore[arg-type]


def _prepare(stack: Stack, chains: int) -> str:
    """Fill the ledger, release, and fill it further; return the target's checksum."""
    write_policy(stack.keys, stack.folder, policy_document(stack.keys))
    with stack.connection() as connection:
        connection.execute(APGMS_SCHEMA.read_bytes())
        connection.execute(_PERIODS, [chains])
        _deposit(connection, range(ROWS_BEFORE))
        connection.execute("VACUUM ANALYZE")
        target = _release(stack, connection)
        _deposit(connection, range(ROWS_BEFORE, ROWS_BEFORE + ROWS_AFTER))
        connection.execute("VACUUM ANALYZE")
    return target


def _deposit(connection: Connection, numbers: range) -> None:
    """Append one row to every chain, for each number."""
    for number in numbers:
        connection.execute(_DEPOSIT, {"number": number})


def _release(stack: Stack, connection: Connection) -> str:
    """Put down what a release leaves behind that a rollback goes by."""
    ports = rollbacks.ports(stack, connection)
    head = take_snapshot(connection, ports.store, ports.log_signer, ports.policy, ports.clock)
    image = stack.folder / "image.jsonl"
    with image.open("wb") as out:
        image_sha256 = write_image(connection, out)
    ledger = Ledger(
        head.origin,
        head.tree_size,
        head.root.hex(),
        sha256_hex(head.checkpoint),
        sha256_hex(head.ledger_hashes),
        {name: sha256_hex(data) for name, data in head.namespaces.items()},
    )
    manifest = replace(make_manifest(), ledger=ledger, image_sha256=image_sha256)
    for name, data in (("image.jsonl", image), ("manifest.json", manifest.to_bytes())):
        ports.store.put_new(object_key(manifest.checksum, name), data)
    connection.execute("SET session_replication_role = replica")
    connection.execute(_RELEASE, [manifest.checksum])
    connection.execute(_APPROVAL, [manifest.checksum])
    connection.execute("SET session_replication_role = origin")
    return manifest.checksum


_PERIODS = """
INSERT INTO periods (abn, tax_type, period_id, state)
SELECT (10000000000 + n / 2)::text, CASE n %% 2 WHEN 0 THEN 'GST' ELSE 'PAYGW' END, '2025-09',
       'OPEN'
FROM generate_series(0, %s - 1) AS n
"""
_DEPOSIT = """
INSERT INTO owa_ledger (abn, tax_type, period_id, transfer_uuid, amount_cents, balance_after_cents,
                        bank_receipt_hash, prev_hash, hash_after)
SELECT p.abn, p.tax_type, p.period_id, gen_random_uuid(), 1000 + p.id, b.balance, r.receipt,
       l.hash_after, encode(sha256(convert_to(
           coalesce(l.hash_after, '') || r.receipt || b.balance, 'UTF8')), 'hex')
FROM periods p
LEFT JOIN LATERAL (
    SELECT hash_after, balance_after_cents FROM owa_ledger o
    WHERE (o.abn, o.tax_type, o.period_id) = (p.abn, p.tax_type, p.period_id)
    ORDER BY o.id DESC LIMIT 1) l ON true
CROSS JOIN LATERAL (SELECT coalesce(l.balance_after_cents, 0) + 1000 + p.id AS balance) b
CROSS JOIN LATERAL (SELECT md5(p.id || '/' || %(number)s) AS receipt) r
ORDER BY p.id
"""
_RELEASE = """
INSERT INTO apgms_release.release (manifest_sha256, submission_id, idempotency_key, state, why,
    endpoint, body_sha256, operator, intent_at, changed_at, attempts, journal_seq)
VALUES (%s, 'bench', 'bench', 'ACKNOWLEDGED', '', '', '', 'operator', now(), now(), 1, 1)
"""
_APPROVAL = """
INSERT INTO apgms_release.used_statement (nonce, kind, signer, sha256, manifest_sha256)
VALUES ('bench', 'release', 'auditor', '', %s)
"""


if __name__ == "__main__":
    print(json.dumps(_run(*sys.argv[1:])))
