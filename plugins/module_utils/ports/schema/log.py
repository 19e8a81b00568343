# GNU General Public License v3.0+ (see COPYING)
"""The transparency log over owa_ledger."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {}
