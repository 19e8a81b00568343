# GNU General Public License v3.0+ (see COPYING)
"""Bundles: one frozen manifest per submission id."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {
    "bundles-1": """
CREATE TABLE apgms_release.bundle (
    submission_id text PRIMARY KEY,
    stack text NOT NULL,
    purpose text NOT NULL,
    manifest_sha256 text NOT NULL UNIQUE,
    frozen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
""",
}
