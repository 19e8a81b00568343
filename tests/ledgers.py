# GNU General Public License v3.0+ (see COPYING)
"""Ledgers for the tests, and the parts that a snapshot of them needs."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    Policy,
    parse_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import (
    Chain,
    Link,
    next_link,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.cosign import (
    Cosigned,
    cosign,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.released_chains import (
    verify_chains_against_leaves,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.snapshot import (
    Snapshot,
    take_snapshot,
)
from services.keys import Keys, make_keys, policy_document, write_policy
from tests.module_process import run_module

COLUMNS = (
    "abn",
    "tax_type",
    "period_id",
    "transfer_uuid",
    "amount_cents",
    "balance_after_cents",
    "bank_receipt_hash",
    "prev_hash",
    "hash_after",
)
INSERT = (
    f"INSERT INTO owa_ledger ({', '.join(COLUMNS)})"
    f" VALUES ({', '.join(['%s'] * len(COLUMNS))}) RETURNING id"
)


class LedgerWriter:
    """Makes valid ledger rows of many chains; the same rows for the same seed."""

    def __init__(self, chains: int = 10, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._chains = chains
        self._heads: dict[int, Link] = {}

    def row(self, chain: int | None = None) -> tuple[Any, ...]:
        """Return the next row, in the order of COLUMNS."""
        number = self._random.randrange(self._chains) if chain is None else chain
        receipt = hashlib.sha256(self._random.randbytes(8)).hexdigest()
        amount = self._random.randrange(1, 100_000)
        link = next_link(self._heads.get(number), amount, receipt)
        self._heads[number] = link
        abn = str(53004085616 + number // 4)
        tax_type, period = ("GST", "PAYGW")[number % 2], f"2025-{number // 2 % 2 + 1:02d}"
        transfer = uuid.UUID(int=self._random.getrandbits(128))
        return (abn, tax_type, period, transfer, *vars(link).values())

    def insert(self, connection: psycopg.Connection[Any], count: int) -> list[int]:
        """Insert rows; return their ids."""
        return [connection.execute(INSERT, self.row()).fetchone()[0] for _ in range(count)]  # type: ignore[index]

    def load(self, connection: psycopg.Connection[Any], count: int) -> None:
        """Load many rows with COPY."""
        command = f"COPY owa_ledger ({', '.join(COLUMNS)}) FROM STDIN"
        with connection.cursor().copy(command) as copy:
            for _ in range(count):
                copy.write_row(self.row())
        connection.execute("ANALYZE owa_ledger")


@dataclass
class Stack:
    """A stack with a ledger, an object store and keys."""

    url: str
    folder: Path
    keys: Keys
    policy: Policy
    store: FolderStore

    def snapshot(self, **options: Any) -> Snapshot:
        """Take a snapshot over a connection of its own."""
        with self.connection() as connection:
            return self.snapshot_over(connection, **options)

    def snapshot_over(self, connection: Any, **options: Any) -> Snapshot:
        """Take a snapshot over a given connection."""
        signer = open_signer(str(self.keys.log_key), "ed25519")
        store = options.pop("store", self.store)
        return take_snapshot(connection, store, signer, self.policy, SystemClock(), **options)

    def cosign(self) -> Cosigned:
        """Confirm the newest checkpoint as the auditor."""
        return cosign(
            self.store,
            self.policy,
            open_signer(str(self.keys.cosign_key), "ed25519"),
            SystemClock(),
        )

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection as the modules open it."""
        with connect(self.url, None, purpose="test") as connection:
            yield connection

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement in autocommit."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


def fill(stack: Stack, writer: LedgerWriter, count: int) -> None:
    """Load rows into the ledger of a stack."""
    with psycopg.connect(stack.url, autocommit=True) as connection:
        writer.load(connection, count)


def insert_as(stack: Stack, row_id: int, row: tuple[Any, ...] | None = None) -> None:
    """Insert a row under an id of its own choice."""
    statement = INSERT.replace("(abn", "(id, abn").replace("(%s", "(%s, %s")
    stack.execute(statement, row_id, *(row or LedgerWriter(seed=row_id + 7).row()))


def refusal(stack: Stack, **options: Any) -> ApgmsError:
    """Return what a snapshot is refused with."""
    with pytest.raises(ApgmsError) as caught:
        stack.snapshot(**options)
    return caught.value


def verify_all_chains(stack: Stack) -> None:
    """Verify every ledger row against its leaf, as a release does with the rows of its chains."""
    chains = stack.execute(
        "SELECT DISTINCT abn::text, tax_type::text, period_id::text FROM owa_ledger"
    )
    with stack.connection() as connection:
        verify_chains_against_leaves(
            connection, stack.store, stack.policy, [Chain(*chain) for chain in chains]
        )


def forget(stack: Stack, tree_size: int) -> None:
    """Have the database forget what it has recorded of the log beyond a tree size."""
    for table in ("ledger_checkpoint", "ledger_extent"):
        stack.execute(f"ALTER TABLE apgms_release.{table} DISABLE TRIGGER ALL")
    stack.execute("DELETE FROM apgms_release.ledger_checkpoint WHERE tree_size > %s", tree_size)
    stack.execute("DELETE FROM apgms_release.ledger_extent WHERE first_position >= %s", tree_size)


def make_stack(url: str, folder: Path) -> Stack:
    """Return a prod stack on an APGMS database, with keys and a policy of its own."""
    keys = make_keys(folder / "keys", "prod")
    write_policy(keys, folder, policy_document(keys))
    path = folder / "policy.json"
    with connect(url, None, purpose="test") as connection:
        migrate(connection)
    policy = parse_policy(path.read_bytes(), str(path))
    return Stack(url, folder, keys, policy, FolderStore(folder / "store"))


def run_snapshot(stack: Stack, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """Return the result of the module ledger_snapshot, run in a process of its own."""
    return run_module(
        "ledger_snapshot",
        {
            "stack": "prod",
            "database_url": stack.url,
            "object_store": stack.store.url,
            "policy": str(stack.folder / "policy.json"),
            "log_key": str(stack.keys.log_key),
            **options,
        },
        check=check,
    )
