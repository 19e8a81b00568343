# GNU General Public License v3.0+ (see COPYING)
"""How ``periods`` and ``rpt_tokens`` go back to a target's image.

A row of the image is restored; a row that the image does not know is made harmless, not deleted: a
token is revoked, a period starts afresh. What the authority holds, or may hold, never becomes
releasable again: where the image would make it so, today's row stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from .chain import Chain
from .image import ImageRow
from .period_states import PeriodState

FINAL_PERIOD_STATES = frozenset({PeriodState.RELEASED, PeriodState.FINALIZED})
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

Columns = dict[str, str | None]


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
    target: Iterable[ImageRow],
    today: Iterable[ImageRow],
    held: Collection[Chain],
    fresh_period: Columns,
) -> Iterator[StateChange]:
    """Yield what restoring ``target`` changes, in the order of an image.

    :param target: the target's image; like ``today`` in the order of an image
    :param held: chains with a submission that the authority holds or may hold
    :param fresh_period: the column defaults of ``periods``
    :raises ValueError: where an image is out of order
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
    left: Iterable[ImageRow], right: Iterable[ImageRow]
) -> Iterator[tuple[ImageRow | None, ImageRow | None]]:
    """Merge two images into pairs of rows with one key."""
    lefts, rights = _ascending(left), _ascending(right)
    one, two = next(lefts, None), next(rights, None)
    while one is not None or two is not None:
        take_one = two is None or (one is not None and _key(one) <= _key(two))
        take_two = one is None or (two is not None and _key(two) <= _key(one))
        yield (one if take_one else None), (two if take_two else None)
        if take_one:
            one = next(lefts, None)
        if take_two:
            two = next(rights, None)


def _ascending(rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
    last: ImageRow | None = None
    for row in rows:
        if last is not None and _key(row) <= _key(last):
            raise ValueError(f"an image is out of order at {row.table} {row.columns['id']}")
        yield row
        last = row


def _key(row: ImageRow) -> tuple[str, Chain | int]:
    if row.table == "periods":
        return row.table, chain_of(row.columns)
    return row.table, int(str(row.columns["id"]))
