# GNU General Public License v3.0+ (see COPYING)
"""What the sandbox guarantees: whole or nothing, once, and through a kill at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Flags
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    Attempt,
    Body,
    Disposition,
    State,
    submission_body,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import (
    HttpGateway,
    open_gateway,
)
from tests.conftest import ROOT
from tests.gateway_process import GatewayProcess
from tests.submissions import Submission, make_submission


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    options = ("--settle", "1", "--key-retention", "1000")
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), options=options).start()
    yield process
    process.stop()


@pytest.fixture
def port(process: GatewayProcess) -> HttpGateway:
    return open_gateway(process.url, process.pins)


@pytest.fixture
def submission(request: pytest.FixtureRequest) -> Submission:
    return make_submission(request.node.name)


def _submit(port: HttpGateway, submission: Submission, key: str | None = None) -> Attempt:
    return port.submit(key or submission.idempotency_key, submission.body)


def test_the_same_key_and_body_are_the_same_job(port: HttpGateway, submission: Submission) -> None:
    first, second = _submit(port, submission), _submit(port, submission)

    assert first.disposition is second.disposition is Disposition.TAKEN
    assert first.job_id == second.job_id


def test_the_same_key_with_another_body_is_refused(
    port: HttpGateway, submission: Submission
) -> None:
    _submit(port, submission)

    attempt = _submit(port, make_submission("another"), submission.idempotency_key)

    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, "key_reused")


def test_the_same_manifest_under_another_key_points_to_the_first(
    port: HttpGateway, submission: Submission
) -> None:
    first = _submit(port, submission)

    attempt = _submit(port, submission, "another-key-00000000")

    assert (attempt.disposition, attempt.job_id) == (Disposition.DUPLICATE, first.job_id)
    assert port.lookup(idempotency_key="another-key-00000000") is None


FLAGS = Flags(seed=False, smoke=False, dry_run=True)
REFUSED_MANIFESTS: dict[str, dict[str, Any]] = {
    "dry_run": {"flags": FLAGS},
    "wrong_environment": {"stack": "proto"},
}


@pytest.mark.parametrize("code", REFUSED_MANIFESTS)
def test_a_manifest_that_does_not_belong_here_is_refused(port: HttpGateway, code: str) -> None:
    attempt = _submit(port, make_submission(code, **REFUSED_MANIFESTS[code]))

    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, code)


def test_the_sandbox_environment_takes_no_prod_manifest(
    tmp_path: Path, submission: Submission
) -> None:
    process = GatewayProcess(tmp_path, "sandbox").start()
    try:
        attempt = _submit(open_gateway(process.url, process.pins), submission)
    finally:
        process.stop()

    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, "wrong_environment")


def _without_a_row(rows: bytes) -> bytes:
    return rows[: rows.rindex(b"\n", 0, -1) + 1]


def _with_a_row_more(rows: bytes) -> bytes:
    return rows + rows.splitlines(keepends=True)[-1]


def _with_another_amount(rows: bytes) -> bytes:
    return rows.replace(b'"1000"', b'"1001"', 1)


def _with_garbage(rows: bytes) -> bytes:
    return b"{]\n" + rows


@pytest.mark.parametrize(
    "change", [_without_a_row, _with_a_row_more, _with_another_amount, _with_garbage]
)
def test_rows_that_are_not_the_manifests_are_refused(
    port: HttpGateway, process: GatewayProcess, change: Callable[[bytes], bytes]
) -> None:
    good = make_submission(change.__name__)
    before = process.counters["submissions"]

    attempt = _submit(port, dataclasses.replace(good, rpts=tuple(map(change, good.rpts))))

    assert (attempt.disposition, attempt.code) == (
        Disposition.REFUSED,
        "rows_differ_from_manifest",
    )
    assert process.counters["submissions"] == before
    assert _submit(port, good).disposition is Disposition.TAKEN


@pytest.mark.parametrize("first_line", [b"", b"{}", b"[]", b'{"a": 1}', b"\xff", b"[" * 20000])
def test_a_first_line_that_is_no_manifest_is_refused(port: HttpGateway, first_line: bytes) -> None:
    attempt = port.submit("some-key-0123456789", submission_body(first_line, []))

    assert (attempt.disposition, attempt.code) == (Disposition.REFUSED, "manifest_malformed")


def test_a_body_with_another_digest_is_refused(port: HttpGateway, submission: Submission) -> None:
    altered = dataclasses.replace(submission.body, sha256=hashlib.sha256(b"").hexdigest())
    sent = port.submit(submission.idempotency_key, _Unchecked(**vars(altered)))

    assert (sent.disposition, sent.code) == (Disposition.REFUSED, "digest_mismatch")


class _Unchecked(Body):
    """A body that does not notice that it changed."""

    def chunks(self) -> Iterator[bytes]:
        for part in self.parts:
            yield part().read()


def test_an_upload_cut_short_leaves_nothing(
    port: HttpGateway, process: GatewayProcess, submission: Submission
) -> None:
    before = process.counters["submissions"]
    with _upload(process, submission) as connection:
        connection.sendall(submission.manifest.to_bytes()[:100])

    assert _submit(port, submission).disposition is Disposition.TAKEN
    assert process.counters["submissions"] == before + 1


def test_while_a_key_is_being_received_a_second_request_waits(
    port: HttpGateway, process: GatewayProcess, submission: Submission
) -> None:
    with _upload(process, submission) as connection:
        connection.sendall(submission.manifest.to_bytes()[:100])
        time.sleep(0.1)
        meanwhile = _submit(port, submission)
        rest = b"".join(submission.body.chunks())[100:]
        connection.sendall(rest)
        first = connection.recv(1 << 16)

    assert meanwhile.disposition is Disposition.RUNNING
    assert first.startswith(b"HTTP/1.1 202 ")


def test_what_is_not_received_within_the_settle_time_is_dropped(
    port: HttpGateway, process: GatewayProcess, submission: Submission
) -> None:
    with _upload(process, submission) as connection:
        connection.sendall(submission.manifest.to_bytes()[:100])
        answer = connection.recv(1 << 16)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert port.lookup(idempotency_key=submission.idempotency_key) is None
    assert port.identity().lookup_settle_seconds == 1


def _upload(process: GatewayProcess, submission: Submission) -> socket.socket:
    parts = urlsplit(process.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=5)
    headers = {"Host": "gateway", "Content-Length": submission.body.length, **submission.headers}
    lines = ["POST /v1/submissions HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_past_the_retention_the_gateway_forgets_and_takes_it_again(
    port: HttpGateway, process: GatewayProcess, submission: Submission
) -> None:
    first = _submit(port, submission)
    process.shift_clock(1001)
    try:
        found = port.lookup(manifest_sha256=submission.manifest.checksum)
        second = _submit(port, submission)
    finally:
        process.shift_clock(0)

    assert found is None
    assert second.disposition is Disposition.TAKEN
    assert second.job_id != first.job_id
    assert port.status(str(first.job_id)).state is State.ACCEPTED
    assert process.counters["manifests_taken_more_than_once"] == 1


@pytest.mark.parametrize("decided", [True, False], ids=["decided", "queued"])
def test_a_kill_loses_nothing_that_was_taken(
    tmp_path: Path, submission: Submission, decided: bool
) -> None:
    options = ("--processing", "0" if decided else "0.5")
    process = GatewayProcess(tmp_path, options=options).start()
    try:
        port = open_gateway(process.url, process.pins)
        job_id = str(_submit(port, submission).job_id)
        receipt_id = _receipt_id(port, job_id) if decided else None
        before = port.receipt(receipt_id) if receipt_id else None
        process.kill()
        process.start()
        after = port.receipt(_receipt_id(port, job_id))
        again = _submit(port, submission)
    finally:
        process.stop()

    assert before in (None, after)
    assert (again.disposition, again.job_id) == (Disposition.TAKEN, job_id)


def _receipt_id(port: HttpGateway, job_id: str) -> str:
    for _ in range(500):
        receipt_id = port.status(job_id).receipt_id
        if receipt_id:
            return receipt_id
        time.sleep(0.01)
    raise AssertionError("the gateway does not decide")


def test_an_upload_that_a_kill_interrupted_is_not_there_afterwards(
    tmp_path: Path, submission: Submission
) -> None:
    process = GatewayProcess(tmp_path).start()
    try:
        with _upload(process, submission) as connection:
            connection.sendall(submission.manifest.to_bytes()[:100])
            time.sleep(0.1)
            process.kill()
        process.start()
        port = open_gateway(process.url, process.pins)
        assert port.lookup(idempotency_key=submission.idempotency_key) is None
        assert not list(tmp_path.glob("*.uploads/*"))
        assert _submit(port, submission).disposition is Disposition.TAKEN
    finally:
        process.stop()


def test_without_the_flag_there_is_no_administration(tmp_path: Path) -> None:
    GatewayProcess(tmp_path)  # makes the key
    ready = tmp_path / "ready"
    arguments = f"--environment sandbox --key {tmp_path}/gateway.pem --state {tmp_path}/state"
    running = subprocess.Popen(
        [sys.executable, "-m", "services.gateway", *arguments.split(), "--ready-file", ready],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not ready.exists():
            time.sleep(0.02)
        announced = json.loads(ready.read_text())
    finally:
        running.terminate()
        running.wait(10)

    assert announced.keys() == {"url", "pid"}


@pytest.mark.parametrize("spoiled", ["gateway.pem", "gateway.state"])
def test_a_file_that_cannot_be_used_is_one_message(tmp_path: Path, spoiled: str) -> None:
    GatewayProcess(tmp_path)  # makes the key
    (tmp_path / spoiled).write_text("neither key nor state, " * 50)
    files = f"--key {tmp_path}/gateway.pem --state {tmp_path}/gateway.state"

    done = subprocess.run(
        [sys.executable, "-m", "services.gateway", "--environment", "sandbox", *files.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The gateway cannot start: ")
    assert "Traceback" not in done.stderr


SEND = """
import functools, pathlib, sys
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import GatewayPins
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    authority, submission_body)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
url, key, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
openers = [functools.partial(path.open, "rb") for path in sorted(folder.glob("*.jsonl"))]
port = open_gateway(url, GatewayPins((), (authority(url),), {}))
attempt = port.submit(key, submission_body((folder / "manifest.json").read_bytes(), openers))
peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(attempt.disposition, peak)
"""


def test_a_hundred_thousand_rows_pass_in_bounded_memory(tmp_path: Path) -> None:
    submission = make_submission("large", rows=50_000)
    (tmp_path / "manifest.json").write_bytes(submission.manifest.to_bytes())
    for number, rows in enumerate(submission.rpts):
        (tmp_path / f"{number}.jsonl").write_bytes(rows)
    process = GatewayProcess(tmp_path).start()
    try:
        sent = subprocess.run(
            [sys.executable, "-c", SEND, process.url, submission.idempotency_key, tmp_path],
            env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
            capture_output=True,
            text=True,
            check=True,
        )
        gateway_peak = process.peak_kib
        rows_accepted = _eventually_accepted(process)
    finally:
        process.stop()

    disposition, client_peak = sent.stdout.split()
    assert (disposition, rows_accepted) == ("taken", 100_000)
    assert max(int(client_peak), gateway_peak) < 128 * 1024


def _eventually_accepted(process: GatewayProcess) -> int:
    for _ in range(500):
        rows = process.counters["rows_accepted"]
        if rows:
            break
        time.sleep(0.01)
    return rows


def test_the_commands_of_the_documentation_verify_a_receipt(
    tmp_path: Path, process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    receipt_id = _receipt_id(port, str(_submit(port, submission).job_id))
    (tmp_path / "receipt.json").write_bytes(port.receipt(receipt_id))
    (tmp_path / "key.pem").write_text(process.public_key)
    blocks = (ROOT / "docs" / "gateway.md").read_text().split("```sh\n")[1:]
    (commands,) = (block.split("```")[0] for block in blocks if "DSSEv1" in block)

    done = subprocess.run(
        ["sh", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.stdout == "Verified OK\n"
