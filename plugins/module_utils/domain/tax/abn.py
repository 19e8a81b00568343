# GNU General Public License v3.0+ (see COPYING)
"""The Australian business number (ABN): 11 digits with a checksum.

Source: Australian Business Register, "Format of the ABN": subtract 1 from the first digit, weigh
the digits, and the sum is divisible by 89. Prototype data may carry numbers that fail.
"""

from __future__ import annotations

_WEIGHTS = (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)
_MODULUS = 89


def has_valid_checksum(abn: str) -> bool:
    """Say whether ``abn`` is 11 digits whose checksum holds."""
    if len(abn) != 11 or not (abn.isascii() and abn.isdigit()):
        return False
    return _weighted_sum(abn) % _MODULUS == 0


def abn_of(identifier: int, *, valid: bool = True) -> str:
    """Return the ABN of a 9-digit identifier, or one that fails the checksum."""
    digits = f"{identifier:09d}"
    remainder = -_weighted_sum(f"10{digits}") % _MODULUS
    if not valid:
        remainder = (remainder + 1) % _MODULUS
    return f"{remainder + 10}{digits}"


def _weighted_sum(abn: str) -> int:
    first = int(abn[0]) - 1
    rest = zip(_WEIGHTS[1:], abn[1:], strict=True)
    return first * _WEIGHTS[0] + sum(weight * int(digit) for weight, digit in rest)
