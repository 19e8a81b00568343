# GNU General Public License v3.0+ (see COPYING)
"""Canonical JSON (RFC 8785) for everything that is digested or signed.

Numbers are integers within +-(2**53 - 1); amounts of money are strings of decimal cents. Floats are
refused: no signed document of this collection needs one.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

MAX_SAFE_INTEGER = 2**53 - 1
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of ``value``.

    :raises ValueError: for floats, integers above 2**53 - 1, lone surrogates, non-string keys
    """
    written = io.BytesIO()
    _write(value, written.write)
    return written.getvalue()


def parse_canonical(data: bytes) -> Any:
    """Return the value of canonical JSON; the inverse of :func:`canonical`.

    :raises ValueError: where ``data`` is not JSON, repeats a key, or is not in canonical form
    """
    value = parse_json(data)
    if canonical(value) != data:
        raise ValueError("valid JSON, but not in canonical form (RFC 8785)")
    return value


def parse_json(data: bytes) -> Any:
    """Return the value of JSON in UTF-8.

    :raises ValueError: where ``data`` is not JSON, or repeats a key
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique_pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object; the ``object_pairs_hook`` of whoever reads JSON here.

    :raises ValueError: where a key stands twice
    """
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return members


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _write(value: Any, write: Callable[[bytes], object]) -> None:
    """Write a value piece by piece: a plan of millions of ids is held in memory once."""
    if value is None or isinstance(value, bool | str):
        write(_text(value))
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise ValueError(f"{value} is beyond 2**53 - 1: write it as a string")
        write(b"%d" % value)
    elif isinstance(value, list | tuple):
        write(b"[")
        for separator, item in zip(_separators(), value):  # noqa: B905 - they do not end
            write(separator)
            _write(item, write)
        write(b"]")
    elif isinstance(value, dict):
        write(b"{")
        for separator, key in zip(_separators(), _sorted_keys(value)):  # noqa: B905
            write(separator + _text(key) + b":")
            _write(value[key], write)
        write(b"}")
    else:
        raise ValueError(f"{type(value).__name__} has no canonical form here")


def _text(value: bool | str | None) -> bytes:
    return _ENCODER.encode(value).encode("utf-8")


def _separators() -> Iterator[bytes]:
    return chain((b"",), repeat(b","))


def _sorted_keys(value: dict[Any, Any]) -> list[str]:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"object key {key!r} is not a string")
    return sorted(value, key=lambda key: key.encode("utf-16-be"))
