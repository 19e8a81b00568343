# GNU General Public License v3.0+ (see COPYING)
"""Releases under faults: every crash point, and schedules drawn from a seed."""
