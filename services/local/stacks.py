# GNU General Public License v3.0+ (see COPYING)
"""One PostgreSQL with a database for each stack, one gateway process for each stack."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import publish
from services.keys import Keys, make_keys, policy_document, write_policy
from services.postgres import get_server
from services.rates.__main__ import SHIPPED

APGMS_SCHEMA = Path(__file__).resolve().parents[1] / "apgms_schema.sql"
ENVIRONMENTS = {"proto": "sandbox", "prod": "production-like"}
START_SECONDS = 20
END_SECONDS = 5


class LocalStacks:
    """The embedded stacks below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.services_file = root / "services.json"
        self._postmaster_file = root / "postgres" / "postmaster.pid"

    def keys(self, stack: str) -> Keys:
        """Return the keys of a stack; those that are missing are made."""
        return make_keys(self.root / "keys", stack)

    def store(self, stack: str) -> FolderStore:
        """Return the object store of a stack."""
        return FolderStore(self.root / stack / "object-store")

    def up(self) -> dict[str, Any]:
        """Start what does not run yet; return the content of ``services.json``."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        services = self._read()
        if self._postmaster_file.exists() and not self._postgres_runs():
            self._postmaster_file.unlink()  # its pid may be anybody's by now
        server = get_server(self.root / "postgres", cleanup_mode=None)
        services["processes"]["postgres"] = {"pid": self._postgres_pid()}
        services.setdefault("source_revision", _source_revision())
        for stack in ENVIRONMENTS:
            database_url = self._database(server.get_uri(), stack)
            port = services["stacks"].get(stack, {}).get("gateway_port") or _free_port()
            services["stacks"][stack] = {
                "database_url": database_url,
                "gateway_port": port,
                "gateway_url": f"http://127.0.0.1:{port}",
            }
            self._write_policy(stack, port)
            publish(self.store(stack), SHIPPED)
            name = f"gateway-{stack}"
            if not self._gateway_runs(stack, services):
                services["processes"][name] = self._start_gateway(stack, port)
            self._write(services)
        return services

    def down(self) -> str:
        """Stop what ``up`` started; return what was stopped."""
        services = self._read()
        stopped = []
        for stack in ENVIRONMENTS:
            if self._gateway_runs(stack, services):
                _end(services["processes"][f"gateway-{stack}"]["pid"])
                stopped.append(f"gateway-{stack}")
        if self._postmaster_file.exists() and self._postgres_runs():
            _end(self._postgres_pid(), signal.SIGINT)  # PostgreSQL's fast shutdown
            stopped.append("postgres")
        if self.services_file.exists():
            services["processes"] = {}
            self._write(services)
        return f"Stopped: {', '.join(stopped) or 'nothing was running'}"

    def _read(self) -> dict[str, Any]:
        if not self.services_file.exists():
            return {"processes": {}, "stacks": {}}
        content: dict[str, Any] = json.loads(self.services_file.read_text())
        return content

    def _write(self, services: dict[str, Any]) -> None:
        new = self.services_file.with_suffix(".new")
        new.write_text(json.dumps(services, indent=2) + "\n")
        new.replace(self.services_file)

    def _postgres_pid(self) -> int:
        return int(self._postmaster_file.read_text().split()[0])

    def _postgres_runs(self) -> bool:
        return _runs(self._postgres_pid(), str(self._postmaster_file.parent))

    def _gateway_runs(self, stack: str, services: dict[str, Any]) -> bool:
        process = services["processes"].get(f"gateway-{stack}")
        return process is not None and _runs(process["pid"], str(self._gateway_state(stack)))

    def _gateway_state(self, stack: str) -> Path:
        return self.root / stack / "gateway.state"

    def _database(self, server_url: str, stack: str) -> str:
        name = f"apgms_{stack}"
        with psycopg.connect(server_url, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            missing = found.fetchone() is None
            if missing:
                connection.execute(f"CREATE DATABASE {name}".encode())
        url = psycopg.conninfo.make_conninfo(server_url, dbname=name)
        if missing:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(APGMS_SCHEMA.read_bytes())
        return url

    def _write_policy(self, stack: str, port: int) -> None:
        folder = self.root / stack
        (folder / "statements").mkdir(parents=True, exist_ok=True)
        if not (folder / "policy.json").exists():
            document = policy_document(
                self.keys(stack),
                environment=ENVIRONMENTS[stack],
                hosts=(f"127.0.0.1:{port}",),
            )
            write_policy(self.keys(stack), folder, document)

    def _start_gateway(self, stack: str, port: int) -> dict[str, Any]:
        """Start the gateway; return its process id and addresses."""
        folder = self.root / stack
        ready = folder / "gateway.ready.json"
        ready.unlink(missing_ok=True)
        log_path = folder / "gateway.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.gateway", "--admin"),
                    *("--environment", ENVIRONMENTS[stack]),
                    *("--port", str(port)),
                    *("--key", str(self.keys(stack).gateway_key)),
                    *("--state", str(self._gateway_state(stack))),
                    *("--ready-file", str(ready)),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=Path(__file__).resolve().parents[2],
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The gateway did not start on port {port}. Why: see {log_path}.")
            time.sleep(0.05)
        started: dict[str, Any] = json.loads(ready.read_text())
        return started


def _source_revision() -> str:
    """Return what stands for the revision of APGMS on these stacks: that of this checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=APGMS_SCHEMA.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runs(pid: int, word: str) -> bool:
    """Return whether this process runs, and is the one that was started with ``word``.

    A pid alone says little: after a restart of the machine it may be anybody's.
    """
    try:
        return word in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _end(pid: int, how: signal.Signals = signal.SIGTERM) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.send_signal(how)
        try:
            process.wait(END_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
