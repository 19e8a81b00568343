# GNU General Public License v3.0+ (see COPYING)
"""RPT rows: how fast they are verified and put into a bundle, and in how much memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Flags
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.rpt_bundle import (
    Order,
    Ports,
    build_bundle,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.rpt_verify import (
    verify_rows,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    publish,
    pull,
)
from services.keys import make_keys, policy_document, write_policy
from services.postgres import get_server
from services.rates.__main__ import SHIPPED
from tests.bench.__main__ import Figure
from tests.conftest import APGMS_SCHEMA, ROOT

ROWS = 20_000
PERIOD = "2025-09"
MIN_ROWS_A_SECOND = 3_000
MAX_GROWTH_MEGABYTES = 64
MAX_AGAIN_SECONDS = 5


def measure(rows: int = ROWS) -> list[Figure]:
    """Return rows a second, the growth of memory while verifying, and the seconds of a resume."""
    folder = Path(tempfile.mkdtemp(prefix="apgms-bench-"))
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        return _measure(folder, server.get_uri(), rows)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, url: str, rows: int) -> list[Figure]:
    keys = make_keys(folder / "keys", "prod")
    store = FolderStore(folder / "store")
    publish(store, SHIPPED)
    pull(store, FolderStore(folder / "rates"), [PERIOD])
    policy_path = write_policy(keys, folder / "policy", policy_document(keys))
    with connect(url, None, purpose="bench") as connection:
        connection.execute(APGMS_SCHEMA.read_bytes())
        _load(url, rows // 2, keys.rpt_key)
        connection.execute("ANALYZE")
        ports = Ports(
            connection=connection,
            store=store,
            local=FolderStore(folder / "bundles"),
            policy=load_policy(connection, str(policy_path), "prod"),
            manifest_signer=open_signer(str(keys.manifest_key), "ecdsa-p256"),
            log_signer=open_signer(str(keys.log_key), "ed25519"),
            clock=DatabaseClock(connection),
        )
        order = Order(
            stack="prod",
            purpose="release",
            flags=Flags(seed=False, smoke=False, dry_run=False),
            submission_id="bench",
            release_window="202510201000",
            source_revision="bench",
            rates_dir=folder / "rates",
        )
        _forget_peak()
        before = _megabytes("VmRSS")
        verify = _seconds(
            lambda: verify_rows(connection, ports.policy, ports.clock.now(), "any").failure
        )
        growth = _megabytes("VmHWM") - before
        build = _seconds(lambda: build_bundle(order, ports).failure)
        again = _seconds(lambda: build_bundle(order, ports).failure)
    return [
        _at_least("rpt: rows verified", rows / verify, "rows/s", MIN_ROWS_A_SECOND),
        _at_most("rpt: memory while verifying", growth, "MB more", MAX_GROWTH_MEGABYTES),
        _at_least("rpt: rows verified and bundled", rows / build, "rows/s", MIN_ROWS_A_SECOND / 2),
        _at_most("rpt: frozen bundle taken again", again, "s", MAX_AGAIN_SECONDS),
    ]


def _load(url: str, entities: int, key: Path) -> None:
    """Fill the ledger in another process, whose memory does not count."""
    command = [sys.executable, "-m", "services.loader", "--database-url", url, "--seed", "1"]
    command += ["--entities", str(entities), "--periods", PERIOD, "--rpt-key", str(key)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def _seconds(work: Callable[[], str | None]) -> float:
    began = time.perf_counter()
    failure = work()
    if failure:
        raise SystemExit(f"bench: {failure}")
    return time.perf_counter() - began


def _at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name=name, value=round(value), unit=unit, limit=limit, holds=value >= limit)


def _at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name=name, value=round(value, 1), unit=unit, limit=limit, holds=value <= limit)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def _megabytes(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024
