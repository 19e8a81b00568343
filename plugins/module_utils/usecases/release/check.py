# GNU General Public License v3.0+ (see COPYING)
"""Validate a release after it was acknowledged: nothing here writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.ledger.chain import Chain
from ...domain.release.manifest import Manifest, object_key
from ...domain.release.receipt import Receipt, verify_receipt
from ...domain.release.release_state import State
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ...ports.schema.migrate import migrate
from ..acts.journal import Journal
from ..bundle.files import require_unaltered
from ..bundle.manifests import load_manifest
from ..ledger.chain_rule import deviating_rows
from ..ledger.intact import require_intact, require_manifest_head
from ..ledger.released_chains import verify_chains_against_leaves
from .acknowledgement import sent_of
from .records import Release, find, open_releases

if TYPE_CHECKING:
    from ...ports.database import Connection

SETTLED = (State.ACKNOWLEDGED, State.PARTIAL)


@dataclass(frozen=True)
class Ports:
    """What a validation reads."""

    connection: Connection
    store: ObjectStore
    policy: Policy
    clock: Clock


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True)
class ReleaseVerdict:
    """What was found about a release. ``residual_*`` is what the authority did not accept."""

    manifest_sha256: str
    state: str
    checks: list[Check]
    residual_count: int
    residual_cents: int

    @property
    def failure(self) -> str | None:
        """What is said where something is off."""
        broken = [f"{check.name}: {check.found}" for check in self.checks if not check.holds]
        if not broken:
            return None
        return (
            f"The release does not hold. Where: manifest {self.manifest_sha256}. Why:"
            f" {'; '.join(broken)}. Mend: stop the stack's releases (kill switch) and go through"
            " the findings; make rollback STACK=prod TARGET=<last good manifest> undoes it"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "manifest_sha256": self.manifest_sha256,
            "state": self.state,
            "checks": [asdict(check) for check in self.checks],
            "residual": {
                "count": self.residual_count,
                "amount_cents": str(self.residual_cents),
            },
        }


def check_release(ports: Ports, stack: str, checksum: str | None) -> ReleaseVerdict:
    """Validate a release, the newest one where no manifest checksum is given.

    :raises ApgmsError: ``release_check.nothing_sent``, ``manifest.*``, ``object_store.*``
    """
    migrate(ports.connection)
    release = _release(ports.connection, stack, checksum)
    manifest = load_manifest(ports.store, release.manifest_sha256, stack)
    looks: dict[str, Callable[[], str]] = {
        "bundle": lambda: _bundle(ports, manifest),
        "state": lambda: _state(release),
        "nothing open": lambda: _nothing_open(ports.connection),
        "receipt": lambda: _receipt(ports, manifest, release),
        "periods and tokens": lambda: _outcomes(ports.connection, manifest),
        "payouts": lambda: _payouts(ports.connection, manifest),
        "ledger log": lambda: _ledger(ports, manifest),
        "hash chain": lambda: _chain_rule(ports.connection, manifest),
        "journal": lambda: _journal(ports, stack),
    }
    checks = [_look(name, look) for name, look in looks.items()]
    count, cents = _residual(ports.connection, manifest.checksum)
    return ReleaseVerdict(manifest.checksum, release.state, checks, count, cents)


class _Off(Exception):
    """What was looked at does not hold."""


def _look(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except _Off as found:
        return Check(name, False, str(found))
    except ApgmsError as error:
        if error.reason == "object_store.unreachable":
            raise
        return Check(name, False, f"{error.reason}: {error}")


def _release(connection: Connection, stack: str, checksum: str | None) -> Release:
    if checksum is None:
        row = connection.execute(
            "SELECT manifest_sha256 FROM apgms_release.release"
            " ORDER BY intent_at DESC, journal_seq DESC LIMIT 1"
        ).fetchone()
        checksum = str(row[0]) if row else None
    release = find(connection, checksum) if checksum else None
    if release is None:
        raise ApgmsError(
            "release_check.nothing_sent",
            "There is no release to validate",
            where=f"apgms_release.release, manifest {checksum or 'not named'}",
            why="nothing was ever to be sent under it" if checksum else "nothing was ever sent",
            mend=f"make release STACK={stack}",
        )
    return release


def _bundle(ports: Ports, manifest: Manifest) -> str:
    require_unaltered(ports.store, object_key(manifest.checksum, ""), manifest, ports.policy)
    row = ports.connection.execute(
        "SELECT manifest_sha256 FROM apgms_release.bundle WHERE submission_id = %s",
        [manifest.submission_id],
    ).fetchone()
    if row is None or row[0] != manifest.checksum:
        raise _Off(f"submission id {manifest.submission_id} is frozen for {row and row[0]}")
    return f"{len(manifest.files)} files are what the manifest {manifest.checksum} binds"


def _state(release: Release) -> str:
    if release.state not in SETTLED:
        raise _Off(f"it is {release.state}: {release.why}")
    return f"{release.state}: {release.why}"


def _nothing_open(connection: Connection) -> str:
    pending = [f"{one.manifest_sha256} is {one.state}" for one in open_releases(connection)]
    if pending:
        raise _Off("; ".join(pending))
    return "no submission has an outcome still to come"


def _receipt(ports: Ports, manifest: Manifest, release: Release) -> str:
    row = ports.connection.execute(
        "SELECT document FROM apgms_release.receipt WHERE sha256 = %s", [release.receipt_sha256]
    ).fetchone()
    if row is None:
        raise _Off("no receipt is stored")
    where = f"apgms_release.receipt {release.receipt_sha256}"
    sent = sent_of(ports.policy, manifest, release)
    receipt = verify_receipt(bytes(row[0]), ports.policy.gateway.keys, sent, where=where)
    _require_counted(ports.connection, manifest, receipt)
    return f"{receipt.receipt_id} of {receipt.environment}, signed by {receipt.key_id}"


def _require_counted(connection: Connection, manifest: Manifest, receipt: Receipt) -> None:
    row = connection.execute(
        "SELECT count(*), coalesce(sum(amount_cents), 0) FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s AND outcome = 'accepted'",
        [manifest.checksum],
    ).fetchone()
    said = (receipt.accepted_count, receipt.accepted_cents)
    if row != said:
        raise _Off(f"it accepts {said[0]} rows, {said[1]} cents; recorded are {row}")


def _outcomes(connection: Connection, manifest: Manifest) -> str:
    off = connection.execute(_UNSETTLED, [manifest.checksum]).fetchall()
    if off:
        raise _Off("; ".join(f"RPT {row[0]} ({row[1]}): {row[2]}, token {row[3]}" for row in off))
    return "every accepted period is RELEASED or FINALIZED and its token consumed"


def _payouts(connection: Connection, manifest: Manifest) -> str:
    off = connection.execute(_UNPAID, [manifest.checksum]).fetchall()
    if off:
        raise _Off("no payout row for " + "; ".join(f"RPT {row[0]} ({row[1]})" for row in off))
    return "every accepted RPT has its payout in owa_ledger"


def _ledger(ports: Ports, manifest: Manifest) -> str:
    head = require_intact(ports.connection, ports.store, ports.policy)
    require_manifest_head(ports.store, ports.policy, manifest.checksum, head)
    chains = [Chain(*row) for row in ports.connection.execute(_chains(manifest))]
    verify_chains_against_leaves(ports.connection, ports.store, ports.policy, chains, growing=True)
    return (
        f"the manifest's {manifest.ledger.tree_size} rows are the beginning of the log's"
        f" {head.tree_size}; the released chains are as admitted"
    )


def _chain_rule(connection: Connection, manifest: Manifest) -> str:
    found = list(islice(deviating_rows(connection, _chains(manifest)), 20))
    if found:
        raise _Off("; ".join(f"row {row_id}: {kind}" for _chain, row_id, kind in found))
    return "hashes and balances of the released chains hold, payouts included"


def _chains(manifest: Manifest) -> sql.Composed:
    return sql.SQL(
        "SELECT abn, tax_type, period_id FROM apgms_release.claim WHERE manifest_sha256 = {}"
    ).format(sql.Literal(manifest.checksum))


def _journal(ports: Ports, stack: str) -> str:
    journal = Journal(ports.connection, ports.store, stack, ports.clock)
    journal.verify()
    last = journal.last()
    return f"{last.seq if last else 0} rows, one chain, the same in the object store"


def _residual(connection: Connection, checksum: str) -> tuple[int, int]:
    row = connection.execute(
        "SELECT count(*), coalesce(sum(amount_cents), 0) FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s AND outcome = 'rejected'",
        [checksum],
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


_UNSETTLED = """
SELECT c.rpt_id, c.abn || ' ' || c.tax_type || ' ' || c.period_id,
       coalesce('period is ' || p.state, 'there is no period'), coalesce(t.status, 'missing')
FROM apgms_release.claim c
LEFT JOIN periods p USING (abn, tax_type, period_id)
LEFT JOIN rpt_tokens t ON t.id = c.rpt_id
WHERE c.manifest_sha256 = %s AND c.outcome = 'accepted'
  AND ((p.state IN ('RELEASED', 'FINALIZED') AND t.status = 'consumed') IS NOT TRUE)
ORDER BY c.rpt_id LIMIT 20
"""
_UNPAID = """
SELECT c.rpt_id, c.abn || ' ' || c.tax_type || ' ' || c.period_id FROM apgms_release.claim c
WHERE c.manifest_sha256 = %s AND c.outcome = 'accepted' AND NOT EXISTS (
    SELECT FROM owa_ledger l WHERE (l.abn, l.tax_type, l.period_id, l.amount_cents)
        = (c.abn, c.tax_type, c.period_id, -c.amount_cents))
ORDER BY c.rpt_id LIMIT 20
"""
