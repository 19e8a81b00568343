# GNU General Public License v3.0+ (see COPYING)
"""A large release: its submission alone, then the whole module from intent to acknowledgement.

Client and module run in processes of their own; database, object store and gateway are real.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    GatewayPins,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    Disposition,
    authority,
    submission_body,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
from services.postgres import get_server
from tests.bench.__main__ import Figure
from tests.conftest import APGMS_SCHEMA, ROOT
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess
from tests.submissions import make_submission

ROWS = 100_000
MAX_SUBMIT_SECONDS = 30.0
MAX_RELEASE_SECONDS = 300.0
MAX_MEBIBYTES = 256.0
WATCH_SECONDS = 0.02
MODULE = "ansible_collections.apgms.release.plugins.modules.gateway_release"


class Run(NamedTuple):
    """What a process printed, how long it took, and its peak resident memory in MiB."""

    output: str
    seconds: float
    mebibytes: float


def measure(rows: int = ROWS) -> list[Figure]:
    """Return seconds and peak memory of submitting ``rows`` RPTs, and of releasing them."""
    with _folder() as folder:
        submitted = _submit(folder, rows)
    with _folder() as folder:
        released, ledger_rows = _release(folder, rows)
    what = f"gateway: {rows} RPTs"
    whole = f"{what} over {ledger_rows} ledger rows released"
    return [
        _figure(f"{what} submitted", submitted.seconds, "s", MAX_SUBMIT_SECONDS),
        _figure(f"{what} submitted, peak memory", submitted.mebibytes, "MiB", MAX_MEBIBYTES),
        _figure(whole, released.seconds, "s", MAX_RELEASE_SECONDS),
        _figure(f"{whole}, peak memory", released.mebibytes, "MiB", MAX_MEBIBYTES),
    ]


def _figure(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name=name, value=round(value, 1), unit=unit, limit=limit, holds=value <= limit)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="apgms-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _submit(folder: Path, rows: int) -> Run:
    submission = make_submission("bench", rows=rows // 2)
    (folder / "manifest.json").write_bytes(submission.manifest.to_bytes())
    for number, batch in enumerate(submission.rpts):
        (folder / f"{number}.jsonl").write_bytes(batch)
    gateway = GatewayProcess(folder).start()
    try:
        run = _run([__name__, gateway.url, submission.idempotency_key, str(folder)])
    finally:
        gateway.stop()
    if run.output.strip() != Disposition.TAKEN:
        raise SystemExit(f"bench: the submission was not taken: {run.output}")
    return run


def _send(url: str, key: str, folder: Path) -> None:
    """Submit what stands in ``folder``, in this process."""
    openers = [functools.partial(path.open, "rb") for path in sorted(folder.glob("*.jsonl"))]
    body = submission_body((folder / "manifest.json").read_bytes(), openers)
    pins = GatewayPins((), (authority(url),), {})
    print(open_gateway(url, pins).submit(key, body).disposition)


def _release(folder: Path, rows: int) -> tuple[Run, int]:
    with _stack(folder) as stack:
        manifest = stack.prepare(entities=rows // 2).bundle()
        options = {
            "stack": "prod",
            "manifest": manifest.checksum,
            "database_url": stack.database_url,
            "object_store": stack.store.url,
            "gateway_url": stack.gateway.url,
            "policy": stack.policy_path,
            "statements": str(stack.statements),
            "operator": "operator",
            "operator_key": str(stack.keys.person("operator")),
        }
        run = _run([MODULE], json.dumps({"ANSIBLE_MODULE_ARGS": options}))
        accepted = stack.taken()["rows_accepted"]
        if accepted != rows // 2 * 2:
            raise SystemExit(f"bench: {accepted} rows were accepted: {run.output}")
        return run, manifest.ledger.tree_size


@contextmanager
def _stack(folder: Path) -> Iterator[Stack]:
    server = get_server(folder / "pg", cleanup_mode="stop")
    gateway = GatewayProcess(folder).start()
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(APGMS_SCHEMA.read_bytes())
        yield Stack(folder / "prod", server.get_uri(), gateway)
    finally:
        gateway.stop()
        server.cleanup()


def _run(module: list[str], text: str = "") -> Run:
    """Run ``python -m MODULE...`` with ``text`` as its input."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as output:
        given.write(text)
        given.seek(0)
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdin=given,
            stdout=output,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        )
        peak = 0.0
        while process.poll() is None:
            peak = _peak(process.pid) or peak
            time.sleep(WATCH_SECONDS)
        seconds = time.perf_counter() - began
        output.seek(0)
        return Run(output.read(), seconds, peak)


def _peak(pid: int) -> float | None:
    """Return the peak of a process so far; its resource usage would count this process's as well.

    :return: MiB; None where the process has ended
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return None
    found = status.partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else None


if __name__ == "__main__":
    _send(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
