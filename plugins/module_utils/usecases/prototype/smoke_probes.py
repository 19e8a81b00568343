# GNU General Public License v3.0+ (see COPYING)
"""The questions of the smoke test, each with what is expected and what was found."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.tax.bas import BasLabels, PayrollLine, TradeLine, bas_labels
from ...domain.tax.gst import gst_cents
from ...domain.tax.periods import parse_period_id
from ...domain.tax.rates import Catalog, newest_covering
from ...domain.tax.token_issue import issue_token
from ...domain.tax.withholding import Frequency, withholding_cents
from ...errors import ApgmsError
from ...libraries import cryptography_exceptions, ed25519
from ...ports.database import columns
from ...ports.gateway import Gateway, check_identity
from ...ports.object_store import ObjectStore
from ...ports.rpt_key import public_base64
from ..rates import PUBLISHED, newest_kept, read_catalogs
from .check_seed import broken_rows
from .check_seed_rules import LEDGER_RULES

if TYPE_CHECKING:
    from ...ports.database import Connection

TABLES = ("owa_ledger", "periods", "rpt_tokens", "audit_log", "remittance_destinations")
ROWS_AT_ONCE = 10_000
MAX_NAMED = 10
"""How many deviating entities and periods are named."""
NOTHING = BasLabels(0, 0, 0, 0, 0)
Key = tuple[str, str]
"""ABN and period id."""


@dataclass(frozen=True)
class Finding:
    """The answer to one question. ``expected`` and ``found`` are JSON."""

    expected: Any
    found: Any
    holds: bool


def probe_database(connection: Connection) -> Finding:
    """The database answers and has the APGMS tables."""
    for table in TABLES:
        columns(connection, table)
    version = connection.info.server_version // 10_000
    return Finding(f"PostgreSQL with {', '.join(TABLES)}", f"PostgreSQL {version} with them", True)


def probe_object_store(store: ObjectStore) -> Finding:
    """The object store can be listed, and something is published in it."""
    objects = sum(1 for _key in store.keys(PUBLISHED))
    return Finding(f"objects under {PUBLISHED}", f"{objects} objects", objects > 0)


def probe_gateway(gateway: Gateway, policy: Policy) -> Finding:
    """The gateway is the one that the policy pins."""
    identity = gateway.identity()
    check_identity(identity, policy.gateway, gateway.url)
    pins = policy.gateway
    return Finding(
        {"environment": list(pins.environments), "key_id": list(pins.keys)},
        {"environment": identity.environment, "key_id": identity.key_id},
        True,
    )


def probe_rates(store: ObjectStore, rates_dir: Path, period_ids: Sequence[str]) -> Finding:
    """The kept catalog that covers the periods is the newest published one."""
    periods = [parse_period_id(period_id) for period_id in period_ids]
    newest = newest_covering(read_catalogs(store, PUBLISHED), periods)
    expected = _named(newest) if newest else f"a published catalog that covers {period_ids}"
    found = _named(newest_kept(rates_dir, period_ids))
    return Finding(expected, found, expected == found)


def probe_chain(connection: Connection) -> Finding:
    """Every ledger row follows the hash chain and the running balance."""
    columns(connection, "owa_ledger")
    row = connection.execute("SELECT count(*) FROM owa_ledger").fetchone()
    rows = row[0] if row else 0
    broken = {rule.name: broken_rows(connection, rule, {}, 1)[0] for rule in LEDGER_RULES}
    expected = {"rows": "some", **dict.fromkeys(broken, 0)}
    return Finding(expected, {"rows": rows, **broken}, rows > 0 and not any(broken.values()))


def probe_token(key: ed25519.Ed25519PrivateKey, policy: Policy) -> Finding:
    """A token issued in memory with the stack's key verifies with a public key that is pinned."""
    token = issue_token({"nonce": "smoke"}, key.sign)
    for kid, raw in policy.rpt_keys.items():
        public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(raw))
        try:
            public.verify(base64.b64decode(token.signature), token.payload_c14n.encode())
        except cryptography_exceptions.InvalidSignature:
            continue
        return Finding("verifies with a pinned key", f"verifies with {kid}", True)
    found = f"signed by {public_base64(key)}; pinned: {', '.join(policy.rpt_keys.values())}"
    return Finding("verifies with a pinned key", found, False)


def probe_bas_labels(connection: Connection, rates_dir: Path, period_ids: Sequence[str]) -> Finding:
    """The labels recomputed from payroll and trade are what the periods are liable for."""
    for table in ("apgms_sandbox.payroll_line", "apgms_sandbox.trade_line", "periods"):
        columns(connection, table)
    catalog = newest_kept(rates_dir, period_ids)
    with connection.transaction():
        labels = _labels(connection, catalog)
        due = _due(connection)
    total = reduce(BasLabels.plus, labels.values(), NOTHING)
    deviating = sorted(
        key for key in labels.keys() | due.keys() if _liable(labels.get(key)) != due.get(key)
    )
    expected = {
        "W2": str(sum(paygw for paygw, _gst in due.values())),
        "1A-1B": str(sum(gst for _paygw, gst in due.values())),
        "deviating": [],
    }
    found = {
        **total.to_json(),
        "1A-1B": str(total.net_gst),
        "deviating": [" ".join(key) for key in deviating[:MAX_NAMED]],
    }
    return Finding(expected, found, bool(labels) and not deviating)


def _named(catalog: Catalog) -> dict[str, str]:
    return {"rates_version": catalog.rates_version, "bundle_sha256": catalog.bundle_sha256}


def _liable(labels: BasLabels | None) -> tuple[int, int] | None:
    return (labels.w2, labels.net_gst) if labels else None


def _labels(connection: Connection, catalog: Catalog) -> dict[Key, BasLabels]:
    try:
        payroll = _payroll(connection, catalog)
        trade = _trade(connection, catalog)
    except ValueError as error:
        raise ApgmsError(
            "smoke.malformed_line",
            "A line of payroll or trade cannot be computed",
            where="apgms_sandbox.payroll_line, apgms_sandbox.trade_line",
            why=str(error),
            mend="seed an empty database again; do not correct rows by hand",
        ) from None
    return {
        key: payroll.get(key, NOTHING).plus(trade.get(key, NOTHING))
        for key in payroll.keys() | trade.keys()
    }


def _payroll(connection: Connection, catalog: Catalog) -> dict[Key, BasLabels]:
    query = (
        "SELECT abn, period_id, scale, frequency, gross_cents, payments"
        " FROM apgms_sandbox.payroll_line ORDER BY abn, period_id"
    )
    return {
        key: bas_labels(
            [
                PayrollLine(
                    gross, withholding_cents(catalog, scale, Frequency(frequency), gross), payments
                )
                for scale, frequency, gross, payments in lines
            ],
            [],
        )
        for key, lines in _groups(connection, query)
    }


def _trade(connection: Connection, catalog: Catalog) -> dict[Key, BasLabels]:
    query = (
        "SELECT abn, period_id, kind, gst_code, price_cents, quantity"
        " FROM apgms_sandbox.trade_line ORDER BY abn, period_id"
    )
    return {
        key: bas_labels(
            [],
            [
                TradeLine(kind == "sale", price, gst_cents(catalog, code, price), quantity)
                for kind, code, price, quantity in lines
            ],
        )
        for key, lines in _groups(connection, query)
    }


def _due(connection: Connection) -> dict[Key, tuple[int, int]]:
    rows = connection.execute(
        "SELECT abn, period_id,"
        " coalesce(sum(final_liability_cents) FILTER (WHERE tax_type = 'PAYGW'), 0)::bigint,"
        " coalesce(sum(final_liability_cents) FILTER (WHERE tax_type = 'GST'), 0)::bigint"
        " FROM periods GROUP BY abn, period_id"
    )
    return {(abn, period_id): (paygw, gst) for abn, period_id, paygw, gst in rows}


def _groups(connection: Connection, query: str) -> Iterator[tuple[Key, Iterable[tuple[Any, ...]]]]:
    with connection.cursor("smoke_lines") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        rows = cursor.execute(query.encode())
        for key, group in groupby(rows, key=lambda row: (row[0], row[1])):
            yield key, (row[2:] for row in group)
