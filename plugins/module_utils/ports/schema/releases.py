# GNU General Public License v3.0+ (see COPYING)
"""Releases, claims, receipts, the journal and the lease."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {}
