# GNU General Public License v3.0+ (see COPYING)
"""The exact shape of a signed document: every member named, none to spare.

A shape is a type, a compiled pattern (a string that matches it whole), ``None``, a tuple of
alternatives, a list of one shape (for each element), :class:`MapOf` (any keys), or a dictionary
(exactly these members).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

STACKS = ("proto", "prod")
STACK = re.compile("|".join(STACKS))
HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
CENTS = re.compile(r"0|[1-9][0-9]{0,17}")
TEXT = re.compile(r"(?=.*\S).{1,500}")
LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,500}")
"""What somebody else wrote, fit for a terminal and a database: no control characters."""


@dataclass(frozen=True)
class MapOf:
    """An object with keys that match ``key`` and values of one shape."""

    key: re.Pattern[str]
    value: Any


def require_shape(value: Any, shape: Any, path: str = "the document") -> None:
    """Check ``value`` against ``shape``.

    :raises ValueError: naming the member that deviates and how
    """
    if isinstance(shape, dict):
        _require_members(value, shape, path)
    elif isinstance(shape, MapOf):
        _require_map(value, shape, path)
    elif isinstance(shape, list):
        _require_list(value, shape[0], path)
    elif isinstance(shape, tuple):
        _require_any(value, shape, path)
    elif isinstance(shape, re.Pattern):
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise ValueError(f"{path} is {_shown(value)}, which is not a {shape.pattern}")
    elif shape is None:
        if value is not None:
            raise ValueError(f"{path} is {_shown(value)}, not null")
    elif not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        raise ValueError(f"{path} is {_shown(value)}, not of type {shape.__name__}")


def _require_members(value: Any, shape: dict[str, Any], path: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {_shown(value)}, not an object")
    missing = sorted(shape.keys() - value.keys())
    unknown = sorted(value.keys() - shape.keys())
    if missing or unknown:
        raise ValueError(f"{path} lacks members {missing} and has unknown members {unknown}")
    for name, member in shape.items():
        require_shape(value[name], member, f"{path}: {name}")


def _require_map(value: Any, shape: MapOf, path: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {_shown(value)}, not an object")
    for key, member in value.items():
        require_shape(key, shape.key, f"{path}: a key")
        require_shape(member, shape.value, f"{path}: {key}")


def _require_list(value: Any, shape: Any, path: str) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{path} is {_shown(value)}, not a list")
    for position, element in enumerate(value, start=1):
        require_shape(element, shape, f"{path}: element {position}")


def _require_any(value: Any, shapes: tuple[Any, ...], path: str) -> None:
    found = []
    for shape in shapes:
        try:
            require_shape(value, shape, path)
        except ValueError as error:
            found.append(str(error))
        else:
            return
    raise ValueError("; ".join(found))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
