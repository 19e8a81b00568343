# GNU General Public License v3.0+ (see COPYING)
"""The rates catalog: withholding coefficients and GST rates, the days they hold, their digest.

``docs/rates.md`` describes the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

from ..formats.canonical import sha256_hex
from ..formats.shape import TEXT, MapOf, require_shape
from .periods import PeriodDays

SCHEMA = "apgms.release/rates/1"
CATALOG_NAME = "catalog.json"
HASH_NAME = "rates.bundle.sha256"
VERSION_FORM = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
BRACKET_SCALES = ("scale1", "scale2", "scale3", "scale5", "scale6")

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_COEFFICIENT = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,8})?")
_RATE = re.compile(r"0|0\.[0-9]{1,8}")
_SHAPE = {
    "schema": re.compile(re.escape(SCHEMA)),
    "rates_version": VERSION_FORM,
    "effective_from": _DAY,
    "effective_to": _DAY,
    "published": _DAY,
    "source": TEXT,
    "unverified": [TEXT],
    "paygw": {
        **{scale: [[(_COEFFICIENT, None)]] for scale in BRACKET_SCALES},
        "scale4": {"resident": _RATE, "foreign": _RATE},
    },
    "gst": MapOf(re.compile(r"[A-Z][A-Z_]{0,31}"), _RATE),
}


@dataclass(frozen=True)
class Bracket:
    """A row of a withholding scale: y = a*x - b for weekly x below ``bound`` dollars.

    A ``bound`` of None is "and over"; an ``a`` of None withholds nothing.
    """

    bound: Decimal | None
    a: Decimal | None
    b: Decimal | None


@dataclass(frozen=True)
class Catalog:
    """One published version of the rates. Its days are inclusive."""

    rates_version: str
    effective_from: date
    effective_to: date
    published: date
    source: str
    unverified: tuple[str, ...]
    scales: Mapping[str, tuple[Bracket, ...]]
    no_tfn: Mapping[str, Decimal]
    """Scale 4: the share withheld where no tax file number is given, resident and foreign."""
    gst: Mapping[str, Decimal]
    """GST code to rate."""
    data: bytes
    """The catalog file as published."""

    @property
    def bundle_sha256(self) -> str:
        """The bundle hash that a manifest names: SHA-256 of the catalog file."""
        return sha256_hex(self.data)

    @property
    def hash_file(self) -> bytes:
        """The content of ``rates.bundle.sha256``, which ``sha256sum -c`` reads."""
        return f"{self.bundle_sha256}  {CATALOG_NAME}\n".encode()

    @property
    def age(self) -> tuple[date, str]:
        """What orders catalogs from old to new: the day of publication, then the version."""
        return self.published, self.rates_version

    def covers(self, period: PeriodDays) -> bool:
        """Say whether the rates hold on every day of ``period``."""
        return self.effective_from <= period.first and period.last <= self.effective_to


def newest_covering(catalogs: Iterable[Catalog], periods: Sequence[PeriodDays]) -> Catalog | None:
    """Return the newest catalog that covers every one of ``periods``, or None."""
    fit = [catalog for catalog in catalogs if all(map(catalog.covers, periods))]
    return max(fit, key=lambda catalog: catalog.age, default=None)


def parse_catalog(data: bytes) -> Catalog:
    """Return the catalog in ``data``.

    :raises ValueError: naming the member that deviates
    """
    document = json.loads(data.decode("utf-8"))
    require_shape(document, _SHAPE, "the catalog")
    days = [date.fromisoformat(document[name]) for name in ("effective_from", "effective_to")]
    if days[0] > days[1]:
        raise ValueError(f"effective_from {days[0]} is after effective_to {days[1]}")
    return Catalog(
        rates_version=document["rates_version"],
        effective_from=days[0],
        effective_to=days[1],
        published=date.fromisoformat(document["published"]),
        source=document["source"],
        unverified=tuple(document["unverified"]),
        scales={name: _brackets(name, document["paygw"][name]) for name in BRACKET_SCALES},
        no_tfn=_decimals(document["paygw"]["scale4"]),
        gst=_decimals(document["gst"]),
        data=data,
    )


def _brackets(name: str, rows: list[list[str | None]]) -> tuple[Bracket, ...]:
    for row in rows:
        if len(row) != 3 or (row[1] is None) != (row[2] is None):
            raise ValueError(f"{name}: {row} is not [bound, a, b] nor [bound, null, null]")
    brackets = tuple(Bracket(*map(_decimal, row)) for row in rows)
    bounds = [bracket.bound for bracket in brackets if bracket.bound is not None]
    if not brackets or brackets[-1].bound is not None or len(bounds) != len(brackets) - 1:
        raise ValueError(f"{name}: exactly the last bound must be null")
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"{name}: the bounds do not ascend")
    return brackets


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _decimals(rates: dict[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(rate) for name, rate in rates.items()}
