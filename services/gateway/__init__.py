# GNU General Public License v3.0+ (see COPYING)
"""The sandbox gateway: docs/gateway.md as a program of its own, with faults on demand.

It shares no code with the collection, so that each checks the other.
"""
