# GNU General Public License v3.0+ (see COPYING)
"""Files that an account may not read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.ports.files import mend_reading


def test_a_missing_right_is_mended_and_not_the_file() -> None:
    path = Path("/keys of prod/rpt.seed")
    denied = OSError(errno.EACCES, "Permission denied")
    assert mend_reading(path, denied, "make it").startswith(
        f"namei -l '/keys of prod/rpt.seed'  # let uid {os.geteuid()} read it"
    )
    assert mend_reading(path, OSError(errno.ENOENT, "No such file"), "make it") == "make it"
    assert mend_reading(path, ValueError("no PEM"), "make it") == "make it"
