# GNU General Public License v3.0+ (see COPYING)
"""A rollback as the operator sees it: result, diff and one sentence."""

from __future__ import annotations

from typing import Any

from ...domain.release.restoration import StateChange
from ...domain.release.rollback_plan import Plan
from .incident import CORRECTIVE
from .rollback import RolledBack


def result(done: RolledBack, shown: int) -> dict[str, Any]:
    """Return the module's result; each list goes up to ``shown`` elements."""
    return {
        **(_of_plan(done.plan, shown) if done.plan else {}),
        **(_of_applied(done) if done.applied else {}),
        "proven": done.applied is None or done.applied.tree_size_after is not None,
        "summary": summary(done),
    }


def before(done: RolledBack, shown: int) -> dict[str, Any] | None:
    """Return the left side of the diff."""
    if done.plan is None or done.plan.empty:
        return None
    return {
        "balances": {
            " ".join(chain[:3]): f"{chain.balance_cents} cents"
            for chain in done.plan.chains[:shown]
        },
        "states": {_name(change): change.before for change in done.plan.states[:shown]},
        "window": "as it was",
    }


def after(done: RolledBack, shown: int) -> dict[str, Any] | None:
    """Return the right side of the diff."""
    plan = done.plan
    if plan is None or plan.empty:
        return None
    return {
        "balances": {
            " ".join(chain[:3]): f"{chain.target_balance_cents} cents: {chain.entries} rows mirror"
            f" {chain.originals} (credits {chain.credits_cents}, debits {chain.debits_cents} cents)"
            for chain in plan.chains[:shown]
        },
        "states": {
            _name(change): {**change.after, "by": change.action} for change in plan.states[:shown]
        },
        "obligations": {
            " ".join(claim.chain): f"amend {claim.amount_cents} cents of release"
            f" {claim.manifest_sha256[:12]}"
            for claim in plan.obligations[:shown]
        },
        "undone_releases": list(plan.undone),
        "totals": plan.totals(),
        "window": "shut",
    }


def summary(done: RolledBack) -> str:
    """Return what happened, or would, and what to do next."""
    if done.applied:
        return (
            f"Rolled back to {done.applied.target_sha256}, incident {done.applied.incident_id}."
            f" Every balance is the target's. {CORRECTIVE}"
        )
    if done.plan is None or done.plan.empty:
        return "Nothing to roll back: ledger, periods and tokens are the target's."
    return f"Plan {done.plan.digest} to {done.plan.target_sha256}: {_figures(done.plan)}."


def _figures(plan: Plan) -> str:
    totals = plan.totals()
    return (
        f"{totals['entries']} rows mirror {totals['originals']} rows in {totals['chains']} chains"
        f" ({totals['credits_cents']} cents of credits, {totals['debits_cents']} of debits);"
        f" {totals['periods']} periods and {totals['tokens']} tokens change;"
        f" {totals['obligations']} submissions to amend ({totals['obligations_cents']} cents);"
        f" {totals['undone_releases']} releases undone"
    )


def _of_plan(plan: Plan, shown: int) -> dict[str, Any]:
    return {
        "target_sha256": plan.target_sha256,
        "plan_sha256": plan.digest,
        "totals": plan.totals(),
        "chains": [chain.document() for chain in plan.chains[:shown]],
        "states": [change.document() for change in plan.states[:shown]],
        "obligations": [claim.obligation() for claim in plan.obligations[:shown]],
        "undone": list(plan.undone),
        "balances_sha256": plan.balances_sha256,
        "tree_size_before": plan.tree_size,
    }


def _of_applied(done: RolledBack) -> dict[str, Any]:
    applied = done.applied
    if applied is None:
        raise AssertionError("asked for where a rollback was applied")
    return {
        "target_sha256": applied.target_sha256,
        "plan_sha256": applied.plan_sha256,
        "incident_id": applied.incident_id,
        "balances_sha256": applied.balances_sha256,
        "tree_size_before": applied.tree_size_before,
        "tree_size_after": applied.tree_size_after,
    }


def _name(change: StateChange) -> str:
    return f"{change.table} {change.id} ({' '.join(change.chain)})"
