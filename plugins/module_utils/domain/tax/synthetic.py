# GNU General Public License v3.0+ (see COPYING)
"""Synthetic entities with payroll, sales and purchases: a pure function of a plan.

Every number is drawn from SHAKE-128 of the plan's seed number and the name of what is drawn, so
that it depends neither on the version of Python nor on what was drawn before.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from ...errors import ApgmsError
from .abn import abn_of
from .gst import gst_cents
from .periods import PeriodDays
from .rates import Catalog
from .withholding import SCALES, Frequency, withholding_cents

MIN_ENTITIES, MAX_ENTITIES = 3, 100_000
_PAY_TIME = "02:00:00+00"
_SALE_TIMES = ("00:30:00+00", "02:30:00+00", "04:30:00+00", "06:30:00+00")
_ITEM_CODES = (*["GST"] * 13, "GST_FREE", "ZERO_RATED", "EXEMPT")
_ABN_STRIDE = 7_919
_THURSDAY, _SUNDAY = 3, 6
_TWELFTHS_OF_A_WEEK = {
    Frequency.WEEKLY: 12,
    Frequency.FORTNIGHTLY: 24,
    Frequency.MONTHLY: 52,
    Frequency.QUARTERLY: 156,
}


@dataclass(frozen=True)
class Plan:
    """What the synthetic ledger is a function of."""

    number: int
    """The seed number."""
    entities: int
    periods: tuple[PeriodDays, ...]
    issued_at: datetime
    """When the periods are closed and the tokens issued; whole seconds, UTC."""
    catalog: Catalog
    valid_abns: bool
    """Whether ABNs pass their checksum; those that fail can be no real business."""

    @cached_property
    def calendars(self) -> tuple[Calendar, ...]:
        """The days of every period on which there is pay or trade."""
        return tuple(map(_calendar, self.periods))


@dataclass(frozen=True)
class Calendar:
    """When there is pay, by frequency, and when there are sales: ISO 8601, UTC."""

    period_id: str
    pay_times: dict[Frequency, list[str]]
    sale_times: list[str]


@dataclass(frozen=True)
class Entity:
    """A business: how it remits tax, whom it pays, what it sells."""

    number: int
    abn: str
    rail: str
    payees: tuple[Payee, ...]
    price_list: tuple[Item, ...]

    def reference(self, period_id: str) -> str:
        """Return the payment reference number of a period."""
        return self.abn + "".join(filter(str.isdigit, period_id))


@dataclass(frozen=True)
class Payee:
    """Someone on the payroll, with the same pay each time, in cents."""

    scale: str
    frequency: Frequency
    gross_cents: int
    withheld_cents: int


class Pay(NamedTuple):
    """One payment of wages."""

    time: str
    payee: Payee


class Item(NamedTuple):
    """What a business sells, and buys for it (price 0: nothing). Prices without GST, in cents."""

    number: int
    code: str
    price_cents: int
    gst_cents: int
    purchase_cents: int
    purchase_gst_cents: int


class Sale(NamedTuple):
    """One sale of an item, with the purchase for it."""

    time: str
    item: Item


def require_plan(plan: Plan) -> None:
    """Check what a plan asks for.

    :raises ApgmsError: ``seed.size``, ``seed.periods``, ``seed.period_not_over``
    """
    if not MIN_ENTITIES <= plan.entities <= MAX_ENTITIES:
        raise ApgmsError(
            "seed.size",
            "A synthetic ledger of this size cannot be made",
            where=f"entities: {plan.entities}",
            why=f"it takes {MIN_ENTITIES} to {MAX_ENTITIES} entities",
            mend="correct the number of entities",
        )
    ids = [period.period_id for period in plan.periods]
    if not ids or len({(period.first, period.last) for period in plan.periods}) != len(ids):
        raise ApgmsError(
            "seed.periods",
            "The periods of the synthetic ledger are unusable",
            where=f"periods: {ids}",
            why="it takes at least one period, and none twice",
            mend="name each period once, for instance 2025-09 and 2025-10",
        )
    for period in plan.periods:
        if plan.issued_at.date() <= period.last:
            raise ApgmsError(
                "seed.period_not_over",
                "A period is not over when its tokens are to be issued",
                where=f"period {period.period_id}, tokens issued at {plan.issued_at}",
                why=f"the period ends on {period.last}",
                mend="take an earlier period or a later time of issue",
            )


def entities(plan: Plan) -> Iterator[Entity]:
    """Yield the entities in ascending order of ABN."""
    start = 100_000_000 + _draws(plan, "abn", count=1)[0] % 100_000_000
    abns = (
        (abn_of(start + number * _ABN_STRIDE, valid=plan.valid_abns), number)
        for number in range(plan.entities)
    )
    for abn, number in sorted(abns):
        yield _entity(plan, number, abn)


def pays(entity: Entity, calendar: Calendar) -> list[Pay]:
    """Return every payment of wages in a period, in order of time."""
    made = (
        Pay(time, payee) for payee in entity.payees for time in calendar.pay_times[payee.frequency]
    )
    return sorted(made, key=lambda pay: pay.time)


def sales(plan: Plan, entity: Entity, calendar: Calendar) -> list[Sale]:
    """Return every sale in a period, in order of time."""
    name = ("sales", entity.number, calendar.period_id)
    items = entity.price_list
    sold = [items[byte % len(items)] for byte in _drawn(plan, name, len(calendar.sale_times))]
    return list(map(Sale, calendar.sale_times, sold))


def anomaly_vector(plan: Plan, entity: Entity, tax_type: str, period_id: str) -> dict[str, float]:
    """Return measures within the usual thresholds; zero is an integer, as ECMAScript writes it."""
    draws = _draws(plan, "anomaly", entity.number, tax_type, period_id, count=3)
    return {
        "variance_ratio": draws[0] % 25 / 100 or 0,
        "dup_rate": 0,
        "gap_minutes": draws[1] % 60,
        "delta_vs_baseline": (draws[2] % 31 - 15) / 100 or 0,
    }


def drawn_hex(plan: Plan, *name: object, count: int) -> str:
    """Return ``count`` bytes drawn under ``name``, in hexadecimal."""
    return _drawn(plan, name, count).hex()


def _draws(plan: Plan, *name: object, count: int) -> tuple[int, ...]:
    return struct.unpack(f">{count}I", _drawn(plan, name, 4 * count))


def _drawn(plan: Plan, name: tuple[object, ...], count: int) -> bytes:
    return hashlib.shake_128("\n".join(map(str, (plan.number, *name))).encode()).digest(count)


def _entity(plan: Plan, number: int, abn: str) -> Entity:
    staff, rail, *items = _draws(plan, "entity", number, count=2 + len(_ITEM_CODES))
    return Entity(
        number=number,
        abn=abn,
        rail=("EFT", "BPAY", "PayTo")[rail % 3],
        payees=tuple(_payee(plan, number, position) for position in range(1 + staff % 9)),
        price_list=tuple(
            _item(plan.catalog, position, draw) for position, draw in enumerate(items)
        ),
    )


def _payee(plan: Plan, number: int, position: int) -> Payee:
    draws = _draws(plan, "payee", number, position, count=3)
    scale = SCALES[draws[0] % len(SCALES)] if position else "2"
    weekly_cents = 30_000 + draws[1] % 320_000 if position else 90_000 + draws[1] % 160_000
    frequency = tuple(Frequency)[draws[2] % 4] if position else Frequency.WEEKLY
    gross = weekly_cents * _TWELFTHS_OF_A_WEEK[frequency] // 12
    withheld = withholding_cents(plan.catalog, scale, frequency, gross)
    return Payee(scale, frequency, gross, withheld)


def _item(catalog: Catalog, position: int, draw: int) -> Item:
    code = _ITEM_CODES[position]
    price = 2_000 + draw % 38_000
    purchase = price * (draw >> 20 & 31) // 100 if code == "GST" and draw >> 30 == 0 else 0
    return Item(
        position + 1,
        code,
        price,
        gst_cents(catalog, code, price),
        purchase,
        gst_cents(catalog, "GST", purchase),
    )


def _calendar(period: PeriodDays) -> Calendar:
    days = period.days()
    thursdays = [day for day in days if day.weekday() == _THURSDAY]
    paydays = {
        Frequency.WEEKLY: thursdays,
        Frequency.FORTNIGHTLY: [day for day in thursdays if day.toordinal() // 7 % 2 == 0],
        Frequency.MONTHLY: [day for day in days if day.day == 15],
        Frequency.QUARTERLY: [period.last] if period.last.month % 3 == 0 else [],
    }
    return Calendar(
        period.period_id,
        {key: [f"{day} {_PAY_TIME}" for day in paid] for key, paid in paydays.items()},
        [f"{day} {time}" for day in days if day.weekday() != _SUNDAY for time in _SALE_TIMES],
    )
