# GNU General Public License v3.0+ (see COPYING)
"""How ``periods`` and ``rpt_tokens`` go back to a target's image.

A row of the image is restored; a row that the image does not know is made harmless, not deleted: a
token is revoked, a period starts afresh. What the authority holds, or may hold, never becomes
releasable again: where the image would make it so, today's row stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Optional

from ..ledger.chain import Chain
from .image import ImageRow, parse_image

FINAL_PERIOD_STATES = frozenset({"RELEASED", "FINALIZED"})
FINAL_TOKEN_STATUSES = frozenset({"consumed", "REVOKED"})
FRESH_COLUMNS = (
    "state",
    "accrued_cents",
    "credited_to_owa_cents",
    "final_liability_cents",
    "merkle_root",
    "running_balance_hash",
    "anomaly_vector",
)
"""What a period that starts afresh gets the column defaults of; basis and thresholds stay."""

Columns = dict[str, Optional[str]]  # noqa: UP045 - ansible-test reads it as older Python


class StateChange(NamedTuple):
    """One row to change: only the columns that change, in PostgreSQL's text form.

    ``action`` is ``restore``, ``put back`` (the row is gone; ``after`` is all of it), ``revoke`` or
    ``start afresh`` (``after`` is the defaults).
    """

    table: str
    id: str
    chain: Chain
    action: str
    before: Columns
    after: Columns

    def document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        abn, tax_type, period_id = self.chain
        return {
            "kind": "state",
            "table": self.table,
            "id": self.id,
            "abn": abn,
            "tax_type": tax_type,
            "period_id": period_id,
            "action": self.action,
            "before": self.before,
            "after": self.after,
        }


def state_changes(
    target: Iterable[bytes],
    today: Iterable[ImageRow],
    held: Collection[Chain],
    fresh_period: Columns,
) -> Iterator[StateChange]:
    """Yield what restoring ``target`` changes, in the order of an image.

    :param target: the lines of the target's image; like ``today`` in the order of an image
    :param held: chains with a submission that the authority holds or may hold
    :param fresh_period: the column defaults of ``periods``
    :raises ValueError: where an image is out of order, or a line is not one of an image
    """
    for then, now in _paired(target, today):
        chains = {chain_of(row.columns) for row in (then, now) if row}
        change = _change(then, now, not chains.isdisjoint(held), fresh_period)
        row = now or then
        if change and row:
            action, before, after = change
            chain = chain_of(row.columns)
            yield StateChange(row.table, str(row.columns["id"]), chain, action, before, after)


def chain_of(columns: Columns) -> Chain:
    """Return the entity, tax type and period of a row."""
    return Chain(*(str(columns[name]) for name in Chain._fields))


def _change(
    then: ImageRow | None, now: ImageRow | None, held: bool, fresh_period: Columns
) -> tuple[str, Columns, Columns] | None:
    if then is None:
        return None if held or now is None else _unknown_to_target(now, fresh_period)
    if held and not _final(then):
        return None
    if now is None:
        return "put back", {}, then.columns
    after = {
        name: value
        for name, value in then.columns.items()
        if name in now.columns and now.columns[name] != value
    }
    return ("restore", _only(now.columns, after), after) if after else None


def _unknown_to_target(now: ImageRow, fresh_period: Columns) -> tuple[str, Columns, Columns] | None:
    if now.table == "rpt_tokens":
        if _final(now):
            return None
        return "revoke", {"status": now.columns["status"]}, {"status": "REVOKED"}
    after = {
        name: fresh_period[name]
        for name in FRESH_COLUMNS
        if name in now.columns and now.columns[name] != fresh_period[name]
    }
    return ("start afresh", _only(now.columns, after), after) if after else None


def _final(row: ImageRow) -> bool:
    if row.table == "periods":
        return row.columns["state"] in FINAL_PERIOD_STATES
    return row.columns["status"] in FINAL_TOKEN_STATUSES


def _only(columns: Columns, names: Columns) -> Columns:
    return {name: columns[name] for name in names}


def _paired(
    target: Iterable[bytes], today: Iterable[ImageRow]
) -> Iterator[tuple[ImageRow | None, ImageRow | None]]:
    """Merge two images into pairs of rows with one key; pairs that are the same are left out."""
    lines, rows = iter(target), iter(today)
    line, now = next(lines, None), next(rows, None)
    then, last = None, None
    while line is not None or now is not None:
        if line is not None and now is not None and now.to_line() == line:
            line, now = next(lines, None), next(rows, None)
            continue
        (then,) = parse_image([line]) if line is not None else (None,)
        take_then = now is None or (then is not None and _key(then) <= _key(now))
        take_now = then is None or (now is not None and _key(now) <= _key(then))
        yield (then if take_then else None), (now if take_now else None)
        last = _require_ascending(last, then if take_then else now)
        if take_then:
            line = next(lines, None)
        if take_now:
            now = next(rows, None)


def _require_ascending(last: ImageRow | None, row: ImageRow | None) -> ImageRow | None:
    if last is not None and row is not None and _key(row) <= _key(last):
        raise ValueError(f"an image is out of order at {row.table} {row.columns['id']}")
    return row


def _key(row: ImageRow) -> tuple[str, Chain | int]:
    if row.table == "periods":
        return row.table, chain_of(row.columns)
    return row.table, int(str(row.columns["id"]))
