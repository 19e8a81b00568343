# GNU General Public License v3.0+ (see COPYING)
"""Write verified RPT rows into the files of their batches, as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ...domain.release.manifest import Batch, rpt_name
from ...domain.tax.rpt import Checked


class BatchWriter:
    """Writes ``rpts/<tax type>-<period>.jsonl``; rows of a batch must come one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: _OpenBatch | None = None
        self._closed: list[_OpenBatch] = []

    def write(self, checked: Checked) -> None:
        """Append a row to its batch."""
        key = (checked.token.tax_type, checked.token.period_id)
        if self._open is None or self._open.key != key:
            self.close()
            self._open = _OpenBatch(self._folder, key)
        self._open.write(checked)

    def close(self) -> None:
        """Finish the batch that is being written."""
        if self._open is not None:
            self._open.file.close()
            self._closed.append(self._open)
            self._open = None

    def batches(self, ledger: Mapping[str, str]) -> list[Batch]:
        """Return the finished batches.

        :param ledger: namespace to the SHA-256 of its snapshot file
        """
        return [
            Batch(
                tax_type=batch.key[0],
                period_id=batch.key[1],
                count=batch.count,
                amount_cents=batch.amount_cents,
                rpt_sha256=batch.digest.hexdigest(),
                ledger_sha256=ledger[batch.key[0].lower()],
            )
            for batch in self._closed
        ]


class _OpenBatch:
    def __init__(self, folder: Path, key: tuple[str, str]) -> None:
        path = folder / rpt_name(*key)
        path.parent.mkdir(exist_ok=True)
        self.key = key
        self.file: IO[bytes] = path.open("xb")
        self.digest = hashlib.sha256()
        self.count = 0
        self.amount_cents = 0

    def write(self, checked: Checked) -> None:
        line = checked.to_line()
        self.file.write(line)
        self.digest.update(line)
        self.count += 1
        self.amount_cents += checked.amount_cents
