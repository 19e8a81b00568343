# GNU General Public License v3.0+ (see COPYING)
"""Roll a test stack back in this process, and see everything that it is made of."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.ports.database import rehearsal
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import Progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps import Steps
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    Findings,
    check_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback import (
    rollback as use_case,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback.order import (
    Order,
    Ports,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback.rollback import (
    RolledBack,
)
from tests.faults.stack import Connection, Stack

Key = tuple[str, str, str]
_numbers = itertools.count(1)


def order(stack: Stack, target: str, plan_sha256: str | None = None, **changes: Any) -> Order:
    """Return the order to roll back to ``target``."""
    made = Order(
        stack="prod",
        target=target,
        plan_sha256=plan_sha256,
        reason="duplicate deposits",
        operator="operator",
        operator_key=str(stack.keys.person("operator")),
        statements_dir=str(stack.statements),
        holder="operator@test",
    )
    return replace(made, **changes)


def ports(stack: Stack, connection: Connection, **changes: Any) -> Ports:
    """Return what a rollback works with."""
    made = Ports(
        connection=connection,
        store=stack.store,
        policy=load_policy(connection, stack.policy_path, "prod"),
        log_signer=open_signer(str(stack.keys.log_key), "ed25519"),
        clock=stack.clock(connection),
        nonce=lambda: secrets.token_hex(16),
    )
    return replace(made, **changes)


def predict(stack: Stack, target: str, plan_sha256: str | None = None) -> RolledBack:
    """Plan a rollback as check mode does."""
    with stack.connection() as connection, rehearsal(connection):
        overlay = OverlayStore(stack.store)
        return use_case.predict(
            order(stack, target, plan_sha256), ports(stack, connection, store=overlay)
        )


def carry_out(
    stack: Stack, target: str, plan_sha256: str, steps: Steps | None = None, **changes: Any
) -> RolledBack:
    """Carry out a plan."""
    with stack.connection() as connection:
        made = ports(stack, connection, steps=steps or Steps())
        return use_case.rollback(order(stack, target, plan_sha256, **changes), made)


def roll_back(stack: Stack, target: str) -> RolledBack:
    """Plan a rollback and carry it out."""
    plan = predict(stack, target).plan
    assert plan is not None
    return carry_out(stack, target, plan.digest)


def check(stack: Stack, progress: Progress | None = None) -> Findings:
    """Check the ledger with the code that shares nothing with the rollback."""
    with stack.connection() as connection:
        policy = load_policy(connection, stack.policy_path, "prod")
        return check_ledger(connection, stack.store, policy, progress)


def balances(stack: Stack) -> dict[Key, int]:
    """Return the chains that do not stand at zero, by the sums of their amounts."""
    return {tuple(row[:3]): row[3] for row in rows(stack, _BALANCES)}


def periods(stack: Stack) -> dict[Key, str]:
    """Return the state of each period."""
    query = "SELECT abn, tax_type, period_id, state FROM periods"
    return {tuple(row[:3]): row[3] for row in rows(stack, query)}


def tokens(stack: Stack) -> dict[int, str]:
    """Return the status of each token."""
    return dict(rows(stack, "SELECT id, status FROM rpt_tokens"))


def rows(stack: Stack, query: str, *values: Any) -> list[Any]:
    """Return all rows of a query."""
    with stack.connection() as connection:
        return connection.execute(query.encode(), values).fetchall()


def book(stack: Stack, chain: Key, amount: int, **columns: Any) -> None:
    """Append a row to the ledger as APGMS does; ``columns`` are those a deployment has more."""
    last = rows(
        stack,
        "SELECT balance_after_cents, hash_after FROM owa_ledger"
        " WHERE (abn, tax_type, period_id) = (%s, %s, %s) ORDER BY id DESC LIMIT 1",
        *chain,
    )
    before, link = last[0] if last else (0, None)
    receipt = secrets.token_hex(16)
    balance = before + amount
    digest = hashlib.sha256(f"{link or ''}{receipt}{balance}".encode()).hexdigest()
    values = {
        "abn": chain[0], "tax_type": chain[1], "period_id": chain[2], "amount_cents": amount,
        "balance_after_cents": balance, "bank_receipt_hash": receipt, "prev_hash": link,
        "hash_after": digest, **columns,
    }  # fmt: skip
    names = ", ".join(values)
    execute(
        stack,
        f"INSERT INTO owa_ledger (transfer_uuid, {names})"
        f" VALUES (gen_random_uuid(), {', '.join(['%s'] * len(values))})",
        *values.values(),
    )


def execute(stack: Stack, statement: str, *values: Any) -> None:
    """Carry out one statement."""
    with stack.connection() as connection:
        connection.execute(statement.encode(), values)


@contextmanager
def copied(stack: Stack, folder: Path) -> Iterator[Stack]:
    """A copy of the stack, with a database of its own; nobody may be connected to this one."""
    name = f"apgms_copy_{next(_numbers)}"
    parts = psycopg.conninfo.conninfo_to_dict(stack.database_url)
    server = psycopg.conninfo.make_conninfo(stack.database_url, dbname="postgres")
    shutil.copytree(stack.folder, folder)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {parts['dbname']}".encode())
    try:
        url = psycopg.conninfo.make_conninfo(stack.database_url, dbname=name)
        yield Stack(folder, url, stack.gateway)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def everything(stack: Stack) -> dict[str, str]:
    """Return a digest of every table, sequence and object of the stack."""
    found = {}
    with stack.connection() as connection:
        for name, query in connection.execute(_RELATIONS).fetchall():
            text = "\n".join(sorted(row[0] for row in connection.execute(query)))
            found[name] = _digest(text.encode())
    root = stack.folder / "store"
    for path in root.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(root))] = _digest(Path(path).read_bytes())
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_BALANCES = """
SELECT abn, tax_type, period_id, sum(amount_cents)::bigint FROM owa_ledger
GROUP BY abn, tax_type, period_id HAVING sum(amount_cents) <> 0
"""
_RELATIONS = """
SELECT format('%I.%I', n.nspname, c.relname), format(
    CASE c.relkind WHEN 'r' THEN 'SELECT r::text FROM %I.%I r'
                   ELSE 'SELECT row(last_value, is_called)::text FROM %I.%I' END,
    n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S') AND n.nspname IN ('public', 'apgms_release')
"""
