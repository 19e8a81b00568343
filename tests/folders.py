"""What can happen to a folder or a file beside the collection."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Take the rights on a path from this process; root has them all, so it becomes nobody."""
    before = path.stat().st_mode
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        path.chmod(before)
