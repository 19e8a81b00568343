# GNU General Public License v3.0+ (see COPYING)
"""A prod stack to release on: real database, object store, gateway process, keys and approvals."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    Policy,
    namespace,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import (
    Statement,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Flags,
    Manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import Clock, DatabaseClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import Gateway
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import Progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle import rpt_bundle
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    publish,
    pull,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import release
from services.keys import Keys, make_keys, policy_document, ssh_sign, write_policy
from services.loader import load
from services.rates.__main__ import SHIPPED
from tests.faults.clock import VirtualClock, install
from tests.gateway_process import GatewayProcess

PERIOD = "2025-09"
REVISION = "0123abcd"
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Stack:
    """The prod stack below ``folder``."""

    folder: Path
    database_url: str
    gateway: GatewayProcess
    keys: Keys = field(init=False)
    counters_before: dict[str, int] = field(init=False)
    """What the gateway had taken before."""

    def __post_init__(self) -> None:
        self.keys = make_keys(self.folder / "keys", "prod")
        self.statements.mkdir(parents=True, exist_ok=True)
        self.counters_before = self.gateway.counters

    @property
    def statements(self) -> Path:
        return self.folder / "statements"

    @property
    def policy_path(self) -> str:
        return str(self.folder / "policy.json")

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.folder / "store")

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection to the stack's database."""
        with connect(self.database_url, None, purpose="test") as connection:
            yield connection

    def prepare(
        self, entities: int = 3, seed: int = 1, virtual: bool = False, **policy: Any
    ) -> Stack:
        """Write the policy, publish and pull the rates, and fill the ledger; return the stack.

        :param virtual: from then on the database has a virtual clock
        :param policy: members of the policy that differ from the usual
        """
        pins = self.gateway.pins
        document = policy_document(
            self.keys,
            gateway={
                "environments": list(pins.environments),
                "hosts": list(pins.hosts),
                "keys": pins.keys,
            },
            **policy,
        )
        write_policy(self.keys, self.folder, document)
        publish(self.store, SHIPPED)
        pull(self.store, FolderStore(self.folder / "rates"), [PERIOD])
        with self.connection() as connection:
            load_policy(connection, self.policy_path, "prod")
        if virtual:
            self.database_url = install(self.database_url)
        with self.connection() as connection:
            if entities:
                self.load(connection, entities, seed)
        return self

    def clock(self, connection: Connection) -> Clock:
        """Return the stack's clock: the database's, virtual where that has one."""
        found = connection.execute("SELECT to_regclass('virtual.time')").fetchone()
        return VirtualClock(connection) if found and found[0] else DatabaseClock(connection)

    def load(self, connection: Connection, entities: int, seed: int) -> None:
        """Fill the ledger: each entity has one RPT for GST and one for PAYGW."""
        load(
            connection,
            seed=seed,
            entities=entities,
            periods=[PERIOD],
            rpt_key=self.keys.rpt_key,
            issued_at=self.clock(connection).now(),
        )

    def bundle(self, submission_id: str = "first", **changes: Any) -> Manifest:
        """Build the bundle of what is ready, and have it approved; return its manifest."""
        with self.connection() as connection:
            now = self.clock(connection).now()
            order = rpt_bundle.Order(
                stack="prod",
                purpose="release",
                flags=Flags(seed=False, smoke=False, dry_run=False),
                submission_id=submission_id,
                release_window=f"{now:%Y%m%d}0000",
                source_revision=REVISION,
                rates_dir=self.folder / "rates",
            )
            ports = rpt_bundle.Ports(
                connection=connection,
                store=self.store,
                local=FolderStore(self.folder / "bundles"),
                policy=load_policy(connection, self.policy_path, "prod"),
                manifest_signer=open_signer(str(self.keys.manifest_key), "ecdsa-p256"),
                log_signer=open_signer(str(self.keys.log_key), "ed25519"),
                clock=self.clock(connection),
            )
            manifest = rpt_bundle.build_bundle(replace(order, **changes), ports).manifest
            assert manifest is not None
            self.approve(manifest, now)
        return manifest

    def approve(self, manifest: Manifest, now: datetime) -> None:
        """Sign the prototype approval and the release approvals of a manifest."""
        run = {
            "rates_version": manifest.rates_version,
            "source_revision": manifest.source_revision,
            "collection_version": manifest.collection_version,
        }
        self.sign("prototype", "auditor", {"manifest_sha256": "cd" * 32, **run}, now)
        for signer in ("auditor", "approver"):
            subject = {"manifest_sha256": manifest.checksum, **run}
            self.sign("release", signer, subject, now)

    def sign(self, kind: str, signer: str, subject: dict[str, Any], now: datetime) -> None:
        """Write a signed statement that is valid for four hours, since an hour."""
        start = now.replace(microsecond=0) - timedelta(hours=1)
        statement = Statement(
            kind=kind,
            stack="proto" if kind == "prototype" else "prod",
            signer=signer,
            not_before=start,
            expires_at=start + timedelta(minutes=240),
            nonce=secrets.token_hex(16),
            reason="as agreed",
            subject=subject,
        )
        path = self.statements / f"{kind}-{statement.nonce[:8]}.json"
        data = statement.to_bytes()
        signature = ssh_sign(self.keys.person(signer), namespace(kind, statement.stack), data)
        path.with_name(f"{path.name}.sig").write_bytes(signature)
        path.write_bytes(data)

    def order(self, manifest: Manifest, **changes: Any) -> release.Order:
        """Return the order to release a manifest."""
        order = release.Order(
            stack="prod",
            manifest_sha256=manifest.checksum,
            operator="operator",
            operator_key=str(self.keys.person("operator")),
            statements_dir=str(self.statements),
            holder="operator@test",
            time_limit=timedelta(minutes=15),
        )
        return replace(order, **changes)

    def ports(
        self,
        connection: Connection,
        *,
        gateway: Gateway | None = None,
        clock: Clock | None = None,
        steps: Steps | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> release.Ports:
        """Return what a release works with."""
        policy: Policy = load_policy(connection, self.policy_path, "prod")
        return release.Ports(
            connection=connection,
            store=self.store,
            gateway=gateway or open_gateway(self.gateway.url, policy.gateway),
            policy=policy,
            clock=clock or self.clock(connection),
            nonce=lambda: secrets.token_hex(16),
            progress=Progress(say),
            steps=steps or Steps(),
        )

    def release(self, manifest: Manifest, **changes: Any) -> release.Released:
        """Release a manifest in this process."""
        with self.connection() as connection:
            return release.release(self.order(manifest, **changes), self.ports(connection))

    def one(self, query: str, *values: Any) -> Any:
        """Return the first column of the first row of a query."""
        with self.connection() as connection:
            row = connection.execute(query.encode(), values).fetchone()
        return row[0] if row else None

    def renewed(self, folder: Path, seed: int) -> Stack:
        """Return the stack as it was prepared, with files of its own in the same database.

        :param seed: fills the ledger anew, so that its RPTs are its own
        """
        shutil.copytree(self.folder, folder)
        self.end_sessions()
        with self.connection() as connection:
            connection.execute("SET session_replication_role = replica")  # append-only triggers
            connection.execute(f"TRUNCATE {', '.join(tables(connection))} CASCADE".encode())
        renewed = Stack(folder, self.database_url, self.gateway)
        with renewed.connection() as connection:
            renewed.load(connection, 3, seed)
        return renewed

    def end_sessions(self) -> None:
        """End every session of the database."""
        with self.connection() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def taken(self) -> dict[str, int]:
        """Return what the gateway took since this stack was made."""
        now = self.gateway.counters
        return {name: now[name] - before for name, before in self.counters_before.items()}


def tables(connection: Connection) -> list[str]:
    """Return the tables that change when a stack is used."""
    rows = connection.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('public', 'apgms_release')"
        " AND (schemaname, tablename) NOT IN"
        " (('apgms_release', 'migration'), ('apgms_release', 'policy'))"
    )
    return [str(name) for (name,) in rows]
