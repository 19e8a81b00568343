# GNU General Public License v3.0+ (see COPYING)
"""Take the image of ``periods`` and ``rpt_tokens``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from ...domain.release.image import TABLES, ImageRow
from ...libraries import sql
from ...ports.database import columns

if TYPE_CHECKING:
    from ...ports.database import Connection

_ORDER = {
    "periods": 'abn COLLATE "C", tax_type COLLATE "C", period_id COLLATE "C"',
    "rpt_tokens": "rpt_tokens.id",
}
_ROWS_A_FETCH = 2000


def image_rows(connection: Connection) -> Iterator[ImageRow]:
    """Yield the image of the whole stack: ``periods`` by its key, then ``rpt_tokens`` by id.

    :raises ApgmsError: ``database.missing_table``
    """
    for table in TABLES:
        yield from _rows(connection, table)


def write_image(connection: Connection, out: IO[bytes]) -> str:
    """Write the image as JSON lines; return its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for row in image_rows(connection):
        line = row.to_line()
        digest.update(line)
        out.write(line)
    return digest.hexdigest()


def _rows(connection: Connection, table: str) -> Iterator[ImageRow]:
    names = list(columns(connection, table))
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
        sql.Identifier(table),
        sql.SQL(_ORDER[table]),
    )
    for row in connection.cursor().stream(query, size=_ROWS_A_FETCH):
        yield ImageRow(table, dict(zip(names, row, strict=True)))
