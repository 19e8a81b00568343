# GNU General Public License v3.0+ (see COPYING)
"""The rows of a synthetic ledger, as text for COPY.

Ids count up from the first free one of each table, so that the same plan into the same tables gives
the same rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from itertools import accumulate, pairwise, zip_longest

from ...domain.formats.canonical import sha256_hex
from ...domain.ledger.chain import hash_after
from ...domain.tax.period_states import PeriodState, close_period
from ...domain.tax.synthetic import (
    Calendar,
    Entity,
    Pay,
    Plan,
    Sale,
    anomaly_vector,
    drawn_hex,
    entities,
    pays,
    sales,
)
from ...domain.tax.token_issue import compact_json, issue_token

LEDGER_COLUMNS = {
    "owa_ledger": "id, abn, tax_type, period_id, transfer_uuid, amount_cents, balance_after_cents,"
    " bank_receipt_hash, prev_hash, hash_after, created_at",
    "periods": "id, abn, tax_type, period_id, state, accrued_cents, credited_to_owa_cents,"
    " final_liability_cents, merkle_root, running_balance_hash, anomaly_vector, thresholds",
    "rpt_tokens": "id, abn, tax_type, period_id, payload, signature, status, created_at,"
    " payload_c14n, payload_sha256",
    "remittance_destinations": "id, abn, label, rail, reference",
    "audit_log": "seq, ts, actor, action, payload_hash, prev_hash, terminal_hash",
}
"""The APGMS tables that are filled, with the columns given; the first is the key."""
SOURCE_COLUMNS = {
    "apgms_sandbox.payroll_line": "abn, period_id, payee, scale, frequency, gross_cents,"
    " withheld_cents, payments",
    "apgms_sandbox.trade_line": "abn, period_id, item, kind, gst_code, price_cents, gst_cents,"
    " quantity",
}
"""The lines of payroll and trade that the tax is computed from; the sandbox's own tables."""
THRESHOLDS = {
    "epsilon_cents": 0,
    "variance_ratio": 0.25,
    "dup_rate": 0.01,
    "gap_minutes": 60,
    "delta_vs_baseline": 0.2,
}
_THRESHOLDS_JSON = compact_json(THRESHOLDS)
ACTOR = "apgms-sandbox"
"""Who closes the periods and issues the tokens, in the audit log."""
Rows = dict[str, list[str]]
"""Lines of COPY text by table."""
TOKEN_LIFE = timedelta(minutes=15)
_NULL = "\\N"


@dataclass(frozen=True)
class Chain:
    """The deposits of one entity's tax and period. ``times`` are texts as PostgreSQL reads them."""

    entity: Entity
    tax_type: str
    period_id: str
    times: Sequence[str]
    amounts: Sequence[int]

    @property
    def name(self) -> tuple[int, str, str]:
        """What is drawn for this chain is drawn under this name."""
        return self.entity.number, self.tax_type, self.period_id

    @property
    def where(self) -> str:
        """The key of the chain as COPY text."""
        return f"{self.entity.abn}\t{self.tax_type}\t{self.period_id}"


@dataclass(frozen=True)
class Closing:
    """What closing a chain's period yields. All that is due was deposited."""

    liability: int
    merkle_root: str
    balance_hash: str
    vector: dict[str, float]


class RowWriter:
    """Turns a plan into rows.

    :param sign: signs a token's message with Ed25519
    :param next_ids: the first free key of each table of :data:`LEDGER_COLUMNS`
    :param terminal_hash: where the audit chain stands
    """

    def __init__(
        self,
        plan: Plan,
        sign: Callable[[bytes], bytes],
        next_ids: dict[str, int],
        terminal_hash: str,
    ) -> None:
        self._plan = plan
        self._sign = sign
        self._next = dict(next_ids)
        self._terminal_hash = terminal_hash
        self._issued_at = plan.issued_at.astimezone(UTC)
        self._issued_text = self._issued_at.isoformat()
        drawn = drawn_hex(plan, "uuid", *(period.period_id for period in plan.periods), count=12)
        self._uuid_tail = f"-{drawn[:4]}-8{drawn[5:8]}-8{drawn[9:12]}-{drawn[12:]}"

    def rows(self) -> Iterator[Rows]:
        """Yield the rows of one entity after the other."""
        for entity in entities(self._plan):
            rows: Rows = {table: [] for table in (*LEDGER_COLUMNS, *SOURCE_COLUMNS)}
            for calendar in self._plan.calendars:
                self._destination(rows, entity, calendar.period_id)
                sold = sales(self._plan, entity, calendar)
                rows["apgms_sandbox.trade_line"] += _trade_lines(entity, calendar, sold)
                self._chain(rows, _gst_chain(entity, calendar, sold))
            for calendar in self._plan.calendars:
                rows["apgms_sandbox.payroll_line"] += _payroll_lines(entity, calendar)
                self._chain(rows, _paygw_chain(entity, calendar, pays(entity, calendar)))
            yield rows

    def _destination(self, rows: Rows, entity: Entity, period_id: str) -> None:
        key = self._take("remittance_destinations")
        where = f"{entity.rail}\t{entity.reference(period_id)}"
        rows["remittance_destinations"].append(f"{key}\t{entity.abn}\tATO\t{where}\n")

    def _chain(self, rows: Rows, chain: Chain) -> None:
        hashes = self._deposits(rows, chain)
        closing = Closing(
            liability=sum(chain.amounts),
            merkle_root=_merkle_root(hashes),
            balance_hash=hashes[-1],
            vector=anomaly_vector(self._plan, chain.entity, chain.tax_type, chain.period_id),
        )
        states = close_period(closing.liability, closing.liability, closing.vector, THRESHOLDS)
        self._period(rows, chain, closing, states)
        if states[-1] is PeriodState.READY_RPT:
            self._token(rows, chain, self._payload(chain, closing))

    def _deposits(self, rows: Rows, chain: Chain) -> list[str]:
        count = len(chain.amounts)
        drawn = drawn_hex(self._plan, "receipt", *chain.name, count=32 * count)
        receipts = [drawn[at : at + 64] for at in range(0, 64 * count, 64)]
        balances = list(accumulate(chain.amounts))
        hashes = _chain_hashes(receipts, balances)
        first = self._take("owa_ledger", count)
        where, uuid = chain.where, self._uuid_tail
        columns = zip(
            range(first, first + count),
            chain.amounts,
            balances,
            receipts,
            [_NULL, *hashes],
            hashes,
            chain.times,
            strict=False,
        )
        rows["owa_ledger"] += [
            f"{key}\t{where}\t{key:08x}{uuid}\t{amount}\t{balance}\t{receipt}\t{before}"
            f"\t{after}\t{time}\n"
            for key, amount, balance, receipt, before, after, time in columns
        ]
        return hashes

    def _period(
        self, rows: Rows, chain: Chain, closing: Closing, states: list[PeriodState]
    ) -> None:
        cents = closing.liability
        rows["periods"].append(
            f"{self._take('periods')}\t{chain.where}\t{states[-1]}\t{cents}\t{cents}\t{cents}"
            f"\t{closing.merkle_root}\t{closing.balance_hash}\t{compact_json(closing.vector)}"
            f"\t{_THRESHOLDS_JSON}\n"
        )
        for before, after in pairwise(states):
            self._audit(rows, chain, f"period.{after.lower()}", {"from": before, "to": after})

    def _payload(self, chain: Chain, closing: Closing) -> dict[str, object]:
        expiry = (self._issued_at + TOKEN_LIFE).isoformat(timespec="milliseconds")
        return {
            "entity_id": chain.entity.abn,
            "period_id": chain.period_id,
            "tax_type": chain.tax_type,
            "amount_cents": closing.liability,
            "merkle_root": closing.merkle_root,
            "running_balance_hash": closing.balance_hash,
            "anomaly_vector": closing.vector,
            "thresholds": THRESHOLDS,
            "rail_id": chain.entity.rail,
            "reference": chain.entity.reference(chain.period_id),
            "expiry_ts": expiry.replace("+00:00", "Z"),
            "nonce": _nonce(drawn_hex(self._plan, "nonce", *chain.name, count=16)),
        }

    def _token(self, rows: Rows, chain: Chain, payload: dict[str, object]) -> None:
        token = issue_token(payload, self._sign)
        rows["rpt_tokens"].append(
            f"{self._take('rpt_tokens')}\t{chain.where}\t{token.payload_c14n}\t{token.signature}"
            f"\tISSUED\t{self._issued_text}\t{token.payload_c14n}\t{token.payload_sha256}\n"
        )
        self._audit(rows, chain, "rpt.issued", {"payload_sha256": token.payload_sha256})

    def _audit(self, rows: Rows, chain: Chain, action: str, what: dict[str, str]) -> None:
        about = {
            "abn": chain.entity.abn,
            "tax_type": chain.tax_type,
            "period_id": chain.period_id,
        }
        payload_hash = sha256_hex(compact_json({**about, **what}).encode())
        before = self._terminal_hash
        self._terminal_hash = sha256_hex(f"{before}{payload_hash}".encode())
        rows["audit_log"].append(
            f"{self._take('audit_log')}\t{self._issued_text}\t{ACTOR}\t{action}\t{payload_hash}"
            f"\t{before or _NULL}\t{self._terminal_hash}\n"
        )

    def _take(self, table: str, count: int = 1) -> int:
        first = self._next[table]
        self._next[table] = first + count
        return first


def _gst_chain(entity: Entity, calendar: Calendar, made: list[Sale]) -> Chain:
    """Each sale's GST, less the credit of the purchase for it, is deposited when it is made."""
    taxed = [(time, item) for time, item in made if item.gst_cents]
    times = [time for time, _item in taxed]
    amounts = [item.gst_cents - item.purchase_gst_cents for _time, item in taxed]
    return Chain(entity, "GST", calendar.period_id, times, amounts)


def _paygw_chain(entity: Entity, calendar: Calendar, paid: list[Pay]) -> Chain:
    """What is withheld from each payment of wages is deposited on pay day."""
    withheld = [pay for pay in paid if pay.payee.withheld_cents]
    times = [pay.time for pay in withheld]
    amounts = [pay.payee.withheld_cents for pay in withheld]
    return Chain(entity, "PAYGW", calendar.period_id, times, amounts)


def _payroll_lines(entity: Entity, calendar: Calendar) -> list[str]:
    head = f"{entity.abn}\t{calendar.period_id}"
    return [
        f"{head}\t{number}\t{payee.scale}\t{payee.frequency}\t{payee.gross_cents}"
        f"\t{payee.withheld_cents}\t{payments}\n"
        for number, payee in enumerate(entity.payees, start=1)
        if (payments := len(calendar.pay_times[payee.frequency]))
    ]


def _trade_lines(entity: Entity, calendar: Calendar, made: list[Sale]) -> list[str]:
    head = f"{entity.abn}\t{calendar.period_id}"
    counts = Counter(sale.item.number for sale in made)
    sold = [(item, counts[item.number]) for item in entity.price_list if counts[item.number]]
    sales = [
        f"{head}\t{item.number}\tsale\t{item.code}\t{item.price_cents}\t{item.gst_cents}"
        f"\t{quantity}\n"
        for item, quantity in sold
    ]
    purchases = [
        f"{head}\t{item.number}\tpurchase\tGST\t{item.purchase_cents}\t{item.purchase_gst_cents}"
        f"\t{quantity}\n"
        for item, quantity in sold
        if item.purchase_cents
    ]
    return sales + purchases


def _chain_hashes(receipts: list[str], balances: list[int]) -> list[str]:
    hashes = []
    before = ""
    for receipt, balance in zip(receipts, balances, strict=True):
        before = hash_after(before, receipt, balance)
        hashes.append(before)
    return hashes


def _merkle_root(leaves: list[str]) -> str:
    """Hash the hexadecimal hashes pairwise, level by level; an odd one pairs with itself."""
    level = [leaf.encode() for leaf in leaves]
    while len(level) > 1:
        pairs = zip_longest(level[::2], level[1::2], fillvalue=level[-1])
        level = [hashlib.sha256(left + right).hexdigest().encode() for left, right in pairs]
    return level[0].decode()


def _nonce(drawn: str) -> str:
    """Return 16 bytes in the form of a UUID of version 4."""
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-8{drawn[17:20]}-{drawn[20:]}"
