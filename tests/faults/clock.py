# GNU General Public License v3.0+ (see COPYING)
"""A virtual clock inside the database: all that asks the database for the time gets this one.

``clock_timestamp()`` is found in the schema ``virtual`` first, because the database URL sets
the search path so. Time stands still unless somebody sleeps or the schedule moves it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

SEARCH_PATH = "-csearch_path=virtual,pg_catalog,public"
_CLOCK = """
CREATE SCHEMA virtual;
CREATE TABLE virtual.time (now timestamptz NOT NULL);
INSERT INTO virtual.time VALUES (date_trunc('day', pg_catalog.clock_timestamp()) + interval '9 h');
CREATE FUNCTION virtual.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
AS 'SELECT now FROM virtual.time';
"""


def install(database_url: str) -> str:
    """Give the database a virtual clock; return the URL through which it is seen."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_CLOCK)
    return psycopg.conninfo.make_conninfo(database_url, options=SEARCH_PATH)


class VirtualClock:
    """The virtual clock, seen by one process."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def now(self) -> datetime:
        row = self._connection.execute("SELECT now FROM virtual.time").fetchone()
        assert row is not None
        now: datetime = row[0]
        return now.astimezone(UTC)

    def sleep(self, seconds: float) -> None:
        self.move(timedelta(seconds=seconds))

    def move(self, by: timedelta) -> None:
        """Move the time, forwards or backwards."""
        self._connection.execute("UPDATE virtual.time SET now = now + %s", [by])
