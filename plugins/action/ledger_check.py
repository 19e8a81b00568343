# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

from ansible_collections.apgms.release.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Shows how far the check is while the module runs."""
