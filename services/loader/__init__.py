# GNU General Public License v3.0+ (see COPYING)
"""The loader of a production-like ledger on this machine, for the local stack and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.periods import (
    parse_period_id,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.synthetic import (
    Plan,
    require_plan,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.rpt_key import open_rpt_key
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed_load import (
    Counts,
    load_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_shipped,
)
from services.rates.__main__ import SHIPPED

if TYPE_CHECKING:
    from ansible_collections.apgms.release.plugins.module_utils.ports.database import Connection


def load(
    connection: Connection,
    *,
    seed: int,
    entities: int,
    periods: Sequence[str],
    rpt_key: Path,
    issued_at: datetime | None = None,
    progress: Callable[[int], None] = lambda entities: None,
) -> Counts:
    """Add entities with closed periods, deposits and issued tokens; return the rows by table.

    Called again with other periods it adds those periods for the same entities, as a ledger grows.

    :param rpt_key: file with the issuer's Ed25519 key, base64 of its seed
    :param issued_at: when the tokens are issued; now, if not given
    :raises ApgmsError: for sizes and periods that cannot be made
    """
    plan = Plan(
        number=seed,
        entities=entities,
        periods=tuple(map(parse_period_id, periods)),
        issued_at=(issued_at or datetime.now(UTC)).replace(microsecond=0),
        catalog=newest_shipped(SHIPPED, periods),
        valid_abns=True,
    )
    require_plan(plan)
    key = open_rpt_key(rpt_key)
    return load_ledger(connection, plan, key.sign, sources=False, progress=progress)
