# GNU General Public License v3.0+ (see COPYING)
"""The version of the collection, which every manifest names; the same as in galaxy.yml."""

from __future__ import annotations

VERSION = "0.1.0"
