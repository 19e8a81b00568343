# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

from ansible_collections.apgms.release.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Shows how many rows are counted again while the module runs."""
