# GNU General Public License v3.0+ (see COPYING)
"""The pinned policy, used statements, windows and the kill switch."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {}
