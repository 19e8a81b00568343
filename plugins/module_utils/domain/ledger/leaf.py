# GNU General Public License v3.0+ (see COPYING)
r"""The leaf of the ledger log: a whole ledger row, whatever columns it has.

An entry of the log is two lines in PostgreSQL's COPY text format: the header with the names of the
columns in table order, and the row with the values as their types print them (UTC, ISO dates),
``\N`` for NULL. Its leaf hash is that of RFC 6962: ``SHA-256(0x00 || entry)``. A segment is the
header and many rows, so any row of it can be put back with COPY, and checked with sha256sum.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_ESCAPES = {
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_ESCAPE_TABLE = str.maketrans(_ESCAPES)
_UNESCAPES = {escape: plain for plain, escape in _ESCAPES.items()}
_NULL = "\\N"

OUTPUT_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
}
"""What a session must set so that COPY prints values in the form of a leaf."""


def line(values: Sequence[str | None]) -> bytes:
    """Return one line of COPY text: the values as text, None for NULL."""
    return ("\t".join(map(_field, values)) + "\n").encode()


def values(row: bytes) -> list[str | None]:
    """Return the values of one line of COPY text; the inverse of :func:`line`."""
    return [_plain(field) for field in row.decode().removesuffix("\n").split("\t")]


def leaf_hash(header: bytes, row: bytes) -> bytes:
    """Return the leaf hash of a row.

    :param header: :func:`line` of the column names
    :param row: :func:`line` of the values
    """
    return hashlib.sha256(b"\x00" + header + row).digest()


def leaf_hashes(header: bytes, rows: Sequence[bytes]) -> list[bytes]:
    """Return :func:`leaf_hash` of many rows; the header is hashed once."""
    begun = hashlib.sha256(b"\x00" + header).copy
    hashes = []
    for row in rows:
        digest = begun()
        digest.update(row)
        hashes.append(digest.digest())
    return hashes


def _field(value: str | None) -> str:
    return _NULL if value is None else value.translate(_ESCAPE_TABLE)


def _plain(field: str) -> str | None:
    if field == _NULL:
        return None
    return re.sub(r"\\.", lambda match: _UNESCAPES[match[0]], field)
