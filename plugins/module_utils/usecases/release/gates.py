# GNU General Public License v3.0+ (see COPYING)
"""What must hold before an intent, and before every attempt to send; checked under the lock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.approval.statement import Signed
from ...domain.approval.window import Window
from ...domain.ledger.chain import Chain
from ...domain.release.manifest import Manifest
from ...errors import ApgmsError
from ...ports.gateway import Identity, check_identity
from ..approvals.approvals import require_approvals
from ..approvals.sign import make_intent
from ..ledger.intact import require_intact
from ..ledger.released_chains import verify_chains_against_leaves
from ..stack import kill_switch, windows
from .info import require_not_undone
from .records import Context

if TYPE_CHECKING:
    from ...ports.database import Connection


def require_releasable(manifest: Manifest, stack: str) -> None:
    """Refuse manifests that no authority may receive as a release.

    :raises ApgmsError: ``release.not_prod``, ``release.dry_run``
    """
    if stack != "prod" or manifest.stack != "prod":
        raise ApgmsError(
            "release.not_prod",
            "Only a prod release is sent to the authority",
            where=f"manifest {manifest.checksum}",
            why=f"the manifest is of stack {manifest.stack}, this run is for {stack}",
            mend="make release STACK=prod, with a manifest of prod",
        )
    flags = manifest.flags
    if flags.dry_run or flags.seed or flags.smoke or manifest.purpose != "release":
        raise ApgmsError(
            "release.dry_run",
            "This manifest is not meant to be released",
            where=f"manifest {manifest.checksum}",
            why=f"its purpose is {manifest.purpose}, its flags are seed={flags.seed},"
            f" smoke={flags.smoke}, dryRun={flags.dry_run}",
            mend="make verify-rpt STACK=prod  # with SEED, SMOKE and DRY_RUN at 0",
        )


def require_gateway(context: Context) -> Identity:
    """Ask the gateway who it is, and return that.

    :raises GatewayUnavailable: where there is no reliable answer
    :raises ApgmsError: ``gateway.unpinned_host``, ``gateway.wrong_environment``,
        ``gateway.unpinned_key``, ``gateway.other_contract``
    """
    identity = context.gateway.identity()
    check_identity(identity, context.policy.gateway, context.gateway.url)
    return identity


def require_policy_in_force(connection: Connection, policy: Policy) -> None:
    """Refuse where another policy has come into force since this run read its own.

    :raises ApgmsError: ``policy.superseded``
    """
    found = connection.execute(
        "SELECT version, sha256 FROM apgms_release.policy WHERE stack = %s"
        " ORDER BY version DESC LIMIT 1",
        [policy.stack],
    ).fetchone()
    if found is None or found[1] != policy.digest:
        raise ApgmsError(
            "policy.superseded",
            "The policy has changed since this run began",
            where=f"apgms_release.policy, stack {policy.stack}",
            why=f"in force is version {found[0] if found else 'none'}, this run read"
            f" {policy.version}",
            mend="run the same command again",
        )


def require_may_send(context: Context, manifest: Manifest) -> Window:
    """Inside an open transaction: refuse unless a byte may go out now.

    :raises ApgmsError: ``kill_switch.on``, ``policy.superseded``, ``release.undone``, ``window.*``
    """
    require_not_undone(context.connection, manifest.checksum)
    kill_switch.require_off(context.connection, manifest.stack)
    require_policy_in_force(context.connection, context.policy)
    return windows.require_open(
        context.connection,
        context.policy,
        manifest.stack,
        context.clock.now(),
        manifest.release_window,
        context.statements_dir,
        context.operator,
    )


def require_approved(context: Context, manifest: Manifest) -> list[Signed]:
    """Return the approvals that let a manifest be sent, and the operator's own signed intent.

    :raises ApgmsError: ``approval.*``, ``statement.*``, ``ssh.cannot_sign``
    """
    now = context.clock.now()
    approvals = require_approvals(
        context.connection,
        context.policy,
        context.statements_dir,
        manifest,
        context.operator,
        now,
    )
    intent = make_intent(
        context.policy,
        act="release",
        manifest_sha256=manifest.checksum,
        operator=context.operator,
        key=context.operator_key,
        now=now,
        nonce=context.nonce(),
    )
    return [*approvals, intent]


def require_ledger(context: Context, manifest: Manifest) -> None:
    """Refuse where the ledger is not what the manifest's checkpoint says of the released chains.

    :raises ApgmsError: ``log.*``, ``release.ledger_shorter``
    """
    head = require_intact(context.connection, context.store, context.policy)
    if head.tree_size < manifest.ledger.tree_size:
        raise ApgmsError(
            "release.ledger_shorter",
            "The ledger log is shorter than the manifest's checkpoint",
            where=f"manifest {manifest.checksum}",
            why=f"the log has {head.tree_size} rows, the manifest {manifest.ledger.tree_size}",
            mend="make ledger-snapshot STACK=prod; where rows are missing, restore them first",
        )
    verify_chains_against_leaves(
        context.connection,
        context.store,
        context.policy,
        _chains(context, manifest),
        progress=context.progress,
    )


def _chains(context: Context, manifest: Manifest) -> Iterator[Chain]:
    claims = context.connection.execute(
        "SELECT abn, tax_type, period_id FROM apgms_release.claim WHERE manifest_sha256 = %s",
        [manifest.checksum],
    )
    for row in claims:
        yield Chain(*row)
