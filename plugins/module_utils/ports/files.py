# GNU General Public License v3.0+ (see COPYING)
"""Small files that others put there: read without waiting and without an end to memory."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; a pipe or a device is not waited for.

    :raises OSError: also where it is no regular file, or larger than ``max_bytes``
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"it is larger than {max_bytes} bytes")
    return data


def mend_reading(path: Path, error: Exception, otherwise: str) -> str:
    """Return what lets this account read a file or folder; ``otherwise`` where no right is missing."""
    if not isinstance(error, PermissionError):
        return otherwise
    return (
        f"namei -l {shlex.quote(str(path))}  # let uid {os.geteuid()} read it, then run the same"
        " command again"
    )
