# GNU General Public License v3.0+ (see COPYING)
"""Period ids of APGMS and the days they cover.

A month is ``2025-09``. A quarter is ``2025Q1`` or ``2025-Q1``, a quarter of the calendar year that
it names, as a month is: ``2025Q1`` is January to March 2025, which business activity statements
call the third quarter of 2024-25.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import date, timedelta

from ...errors import ApgmsError

PERIOD_ID = re.compile(r"(?P<year>[1-9][0-9]{3})(-(?P<month>0[1-9]|1[0-2])|-?Q(?P<quarter>[1-4]))")


@dataclass(frozen=True)
class PeriodDays:
    """A period id with its first and last day, both inclusive."""

    period_id: str
    first: date
    last: date

    def days(self) -> list[date]:
        """Return every day of the period, in order."""
        count = (self.last - self.first).days + 1
        return [self.first + timedelta(days=number) for number in range(count)]


def parse_period_id(period_id: str) -> PeriodDays:
    """Return the days of a period.

    :raises ApgmsError: ``period.malformed``
    """
    match = PERIOD_ID.fullmatch(period_id)
    if match is None:
        raise ApgmsError(
            "period.malformed",
            "A period id cannot be read",
            where=f"period id {period_id!r}",
            why="it is neither a month such as 2025-09 nor a quarter such as 2025Q1 or 2025-Q1",
            mend="correct the period id, in the inventory or in the row that carries it",
        )
    year, month, quarter = (int(match[name] or 0) for name in ("year", "month", "quarter"))
    first_month, last_month = (month, month) if month else (quarter * 3 - 2, quarter * 3)
    last_day = calendar.monthrange(year, last_month)[1]
    return PeriodDays(period_id, date(year, first_month, 1), date(year, last_month, last_day))
