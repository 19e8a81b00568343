# GNU General Public License v3.0+ (see COPYING)
"""Rollbacks, mirrored rows, incidents and amendment obligations."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {}
