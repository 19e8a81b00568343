# GNU General Public License v3.0+ (see COPYING)
"""Verify the operations log and archive it beside the evidence."""

from __future__ import annotations

from pathlib import Path

from ...domain.formats.operations_log import BrokenLog, Head, verify
from ...errors import ApgmsError
from ...ports.object_store import ObjectStore


def verify_log(path: Path) -> Head:
    """Return the head of the log at ``path``.

    :raises ApgmsError: ``operations_log.unreadable``, ``operations_log.broken``
    """
    try:
        with path.open("rb") as log:
            return verify(line.removesuffix(b"\n") for line in log)
    except OSError as error:
        raise ApgmsError(
            "operations_log.unreadable",
            "The operations log cannot be read",
            where=str(path),
            why=str(error),
            mend="name the file that the operations_log callback writes (APGMS_OPERATIONS_LOG)",
        ) from None
    except BrokenLog as error:
        raise ApgmsError(
            "operations_log.broken",
            "The operations log was changed after it was written",
            where=f"{path}, line {error.line_number}",
            why=str(error),
            mend="keep the file as evidence, and compare it with the archived copies (operations/)",
        ) from None


def read_log(path: Path) -> tuple[Head, bytes]:
    """Return the head of the log at ``path`` and its bytes up to there.

    :raises ApgmsError: as :func:`verify_log`
    """
    head = verify_log(path)
    lines = path.read_bytes().splitlines()[: head.entries]
    return head, b"".join(line + b"\n" for line in lines)


def archive_key(head: Head) -> str:
    """Return the key of a log's archived copy, named by its last line."""
    return f"operations/{head.sha256}.jsonl"


def archive_log(path: Path, store: ObjectStore) -> tuple[Head, bool]:
    """Verify the log and store it under ``operations/<sha256 of its last line>.jsonl``.

    :return: the head, and whether the object is new
    :raises ApgmsError: as :func:`verify_log`, and the store's own
    """
    head, data = read_log(path)
    return head, store.put_new(archive_key(head), data)
