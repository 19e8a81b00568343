# GNU General Public License v3.0+ (see COPYING)
"""GST on the price of one supply, to the cent, exactly half a cent up."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from .rates import Catalog


def gst_cents(catalog: Catalog, code: str, price_cents: int) -> int:
    """Return the GST in cents on a price without GST.

    :param code: a GST code of the catalog, such as ``GST`` or ``GST_FREE``
    :param price_cents: price without GST, in cents, not negative
    :raises ValueError: for a code that the catalog does not have, or a negative price
    """
    if code not in catalog.gst:
        raise ValueError(f"{code!r} is none of the GST codes {sorted(catalog.gst)}")
    if price_cents < 0:
        raise ValueError("the price is negative")
    return int((catalog.gst[code] * price_cents).quantize(Decimal(1), ROUND_HALF_UP))
