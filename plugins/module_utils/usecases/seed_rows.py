# GNU General Public License v3.0+ (see COPYING)
"""The rows of a synthetic ledger, as text for COPY.

Ids count up from the first free one of each table, so that the same plan into the same tables gives
the same rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from itertools import accumulate, pairwise, zip_longest

from ..domain.canonical import sha256_hex
from ..domain.chain import hash_after
from ..domain.period_states import PeriodState, close_period
from ..domain.synthetic import (
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
from ..domain.token_issue import compact_json, issue_token

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
TOKEN_LIFE = timedelta(minutes=15)
ENTITIES_A_BLOCK = 200
_NULL = "\\N"


@dataclass
class Block:
    """The rows of some entities, by table."""

    entities: int
    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, table: str, lines: Sequence[str]) -> None:
        """Append rows of a table."""
        self.lines.setdefault(table, []).extend(lines)


@dataclass(frozen=True)
class Chain:
    """The deposits of one entity's tax and period. ``times`` are texts as PostgreSQL reads them."""

    entity: Entity
    tax_type: str
    period_id: str
    times: Sequence[str]
    amounts: Sequence[int]


class RowWriter:
    """Turns a plan into blocks of rows.

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
        drawn = drawn_hex(plan, "uuid", *(period.period_id for period in plan.periods), count=12)
        self._uuid_tail = f"-{drawn[:4]}-8{drawn[5:8]}-8{drawn[9:12]}-{drawn[12:]}"

    def blocks(self) -> Iterator[Block]:
        """Yield the rows of all entities, some entities at a time."""
        every = entities(self._plan)
        for start in range(0, len(every), ENTITIES_A_BLOCK):
            some = every[start : start + ENTITIES_A_BLOCK]
            block = Block(len(some))
            for entity in some:
                self._entity(block, entity)
            yield block

    def _entity(self, block: Block, entity: Entity) -> None:
        for calendar in self._plan.calendars:
            self._destination(block, entity, calendar.period_id)
            made = sales(self._plan, entity, calendar)
            block.add("apgms_sandbox.trade_line", _trade_lines(entity, calendar, made))
            self._chain(block, _gst_chain(entity, calendar, made))
        for calendar in self._plan.calendars:
            paid = pays(entity, calendar)
            block.add("apgms_sandbox.payroll_line", _payroll_lines(entity, calendar))
            self._chain(block, _paygw_chain(entity, calendar, paid))

    def _destination(self, block: Block, entity: Entity, period_id: str) -> None:
        key = self._take("remittance_destinations")
        where = f"{entity.rail}\t{entity.reference(period_id)}"
        block.add("remittance_destinations", [f"{key}\t{entity.abn}\tATO\t{where}\n"])

    def _chain(self, block: Block, chain: Chain) -> None:
        hashes = self._deposits(block, chain)
        self._close_and_issue(block, chain, sum(chain.amounts), hashes)

    def _deposits(self, block: Block, chain: Chain) -> list[str]:
        name = (chain.entity.number, chain.tax_type, chain.period_id)
        count = len(chain.amounts)
        drawn = drawn_hex(self._plan, "receipt", *name, count=32 * count)
        receipts = [drawn[at : at + 64] for at in range(0, 64 * count, 64)]
        balances = list(accumulate(chain.amounts))
        hashes = _chain_hashes(receipts, balances)
        first = self._take("owa_ledger", count)
        head = f"{chain.entity.abn}\t{chain.tax_type}\t{chain.period_id}"
        uuid = self._uuid_tail
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
        block.add(
            "owa_ledger",
            [
                f"{key}\t{head}\t{key:08x}{uuid}\t{amount}\t{balance}\t{receipt}\t{before}"
                f"\t{after}\t{time}\n"
                for key, amount, balance, receipt, before, after, time in columns
            ],
        )
        return hashes

    def _close_and_issue(
        self, block: Block, chain: Chain, liability: int, hashes: list[str]
    ) -> None:
        vector = anomaly_vector(self._plan, chain.entity, chain.tax_type, chain.period_id)
        states = close_period(liability, sum(chain.amounts), vector, THRESHOLDS)
        merkle_root, balance_hash = _merkle_root(hashes), hashes[-1]
        key = self._take("periods")
        where = f"{chain.entity.abn}\t{chain.tax_type}\t{chain.period_id}"
        block.add(
            "periods",
            [
                f"{key}\t{where}\t{states[-1]}\t{liability}\t{sum(chain.amounts)}\t{liability}"
                f"\t{merkle_root}\t{balance_hash}\t{compact_json(vector)}\t{_THRESHOLDS_JSON}\n"
            ],
        )
        for before, after in pairwise(states):
            self._audit(block, chain, f"period.{after.lower()}", {"from": before, "to": after})
        if states[-1] is PeriodState.READY_RPT:
            payload = self._payload(chain, liability, merkle_root, balance_hash, vector)
            self._token(block, chain, payload)

    def _payload(
        self,
        chain: Chain,
        amount: int,
        merkle_root: str,
        balance_hash: str,
        vector: dict[str, float],
    ) -> dict[str, object]:
        expiry = (self._issued_at + TOKEN_LIFE).isoformat(timespec="milliseconds")
        name = (chain.entity.number, chain.tax_type, chain.period_id)
        return {
            "entity_id": chain.entity.abn,
            "period_id": chain.period_id,
            "tax_type": chain.tax_type,
            "amount_cents": amount,
            "merkle_root": merkle_root,
            "running_balance_hash": balance_hash,
            "anomaly_vector": vector,
            "thresholds": THRESHOLDS,
            "rail_id": chain.entity.rail,
            "reference": chain.entity.reference(chain.period_id),
            "expiry_ts": expiry.replace("+00:00", "Z"),
            "nonce": _nonce(drawn_hex(self._plan, "nonce", *name, count=16)),
        }

    def _token(self, block: Block, chain: Chain, payload: dict[str, object]) -> None:
        token = issue_token(payload, self._sign)
        where = f"{chain.entity.abn}\t{chain.tax_type}\t{chain.period_id}"
        block.add(
            "rpt_tokens",
            [
                f"{self._take('rpt_tokens')}\t{where}\t{token.payload_c14n}\t{token.signature}"
                f"\tISSUED\t{self._issued_at.isoformat()}\t{token.payload_c14n}"
                f"\t{token.payload_sha256}\n"
            ],
        )
        self._audit(block, chain, "rpt.issued", {"payload_sha256": token.payload_sha256})

    def _audit(self, block: Block, chain: Chain, action: str, what: dict[str, str]) -> None:
        about = {
            "abn": chain.entity.abn,
            "tax_type": chain.tax_type,
            "period_id": chain.period_id,
        }
        payload_hash = sha256_hex(compact_json({**about, **what}).encode())
        before = self._terminal_hash
        self._terminal_hash = sha256_hex(f"{before}{payload_hash}".encode())
        block.add(
            "audit_log",
            [
                f"{self._take('audit_log')}\t{self._issued_at.isoformat()}\t{ACTOR}\t{action}"
                f"\t{payload_hash}\t{before or _NULL}\t{self._terminal_hash}\n"
            ],
        )

    def _take(self, table: str, count: int = 1) -> int:
        first = self._next[table]
        self._next[table] = first + count
        return first


def _gst_chain(entity: Entity, calendar: Calendar, made: list[Sale]) -> Chain:
    """Each sale's GST, less the credit of the purchase for it, is deposited when it is made."""
    taxed = [(time, item) for time, item in made if item.gst_cents]
    times = [time for time, _ in taxed]
    amounts = [item.gst_cents - item.purchase_gst_cents for _, item in taxed]
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
    sold = Counter(sale.item for sale in made)
    sales = [
        f"{head}\t{item.number}\tsale\t{item.code}\t{item.price_cents}\t{item.gst_cents}"
        f"\t{quantity}\n"
        for item, quantity in sorted(sold.items())
    ]
    purchases = [
        f"{head}\t{item.number}\tpurchase\tGST\t{item.purchase_cents}\t{item.purchase_gst_cents}"
        f"\t{quantity}\n"
        for item, quantity in sorted(sold.items())
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
