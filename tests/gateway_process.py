# GNU General Public License v3.0+ (see COPYING)
"""The sandbox gateway as a real process, for tests: start, kill, stop, plan faults, count."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    GatewayPins,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import authority
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import key_id, public_pem

ROOT = Path(__file__).resolve().parents[1]


class GatewayProcess:
    """A sandbox gateway below ``folder``; it keeps its port, key and state when restarted.

    :param options: further command line options, such as ``"--poll", "0"``
    """

    def __init__(
        self, folder: Path, environment: str = "production-like", options: tuple[str, ...] = ()
    ) -> None:
        self.environment = environment
        self._folder = folder
        self._options = options
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = public_pem(key.public_key()).decode()
        (folder / "gateway.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @property
    def pins(self) -> GatewayPins:
        """What a policy must pin to trust this gateway."""
        keys = {key_id(self.public_key.encode()): self.public_key}
        return GatewayPins((self.environment,), (authority(self.url),), keys)

    def start(self) -> GatewayProcess:
        """Start it, and return once it listens."""
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        command: list[str | Path] = [
            sys.executable, "-m", "services.gateway", "--admin",
            "--state", self._folder / "gateway.state", "--key", self._folder / "gateway.pem",
            "--environment", self.environment, "--port", str(self._port), "--ready-file", ready,
            "--processing", "0", "--poll", "0", *self._options,
        ]  # fmt: skip
        with (self._folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while not ready.exists():
            if self._process.poll() is not None:
                raise RuntimeError((self._folder / "gateway.log").read_text())
            time.sleep(0.02)
        document = json.loads(ready.read_text())
        self.url: str = document["url"]
        self.admin_url: str = document["admin_url"]
        return self

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def plan(self, *faults: dict[str, Any]) -> None:
        """Plan faults, such as ``{"point": "submit", "fault": "lose_response"}``; none: no more."""
        self.admin("faults", {"faults": list(faults)})

    def plan_seed(self, seed: int, rate: float, points: list[str] | None = None) -> None:
        """Let faults happen at random, replayable by ``seed``."""
        only = {} if points is None else {"points": points}
        self.admin("faults", {"seed": seed, "rate": rate, **only})

    def shift_clock(self, offset_seconds: float) -> None:
        """Move the gateway's clock."""
        self.admin("clock", {"offset_seconds": offset_seconds})

    @property
    def fired(self) -> list[str]:
        """The faults that happened since they were planned, as ``point:fault``."""
        fired: list[str] = self.admin("faults")["fired"]
        return fired

    @property
    def counters(self) -> dict[str, int]:
        """What it accepted so far: submissions, rows, and what came more than once."""
        counters: dict[str, int] = self.admin("counters")
        return counters

    @property
    def peak_kib(self) -> int:
        """Its peak resident memory so far, in KiB (Linux)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    def admin(self, path: str, document: Any = None) -> Any:
        """Ask the administration, or tell it ``document``."""
        request = urllib.request.Request(f"{self.admin_url}/{path}")
        if document is not None:
            request.data = json.dumps(document).encode()
            request.method = "PUT"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)
            self._process.wait(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
