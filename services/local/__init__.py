# GNU General Public License v3.0+ (see COPYING)
"""The embedded stacks of ``inventories/local``: everything on this machine, no account anywhere."""
