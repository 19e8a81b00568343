# GNU General Public License v3.0+ (see COPYING)
"""Mutations of everything that could talk a release out: ``python -m tests.fuzz --count 20000``."""
