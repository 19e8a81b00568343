# GNU General Public License v3.0+ (see COPYING)
"""What a bundle is built from, and the orders that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.formats.site_rules import SiteRule
from ...domain.release.manifest import Flags, Manifest
from ...domain.tax.rates import Catalog
from ...errors import ApgmsError
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ...ports.signer import Signer
from ..acts.progress import Progress, say_into
from ..acts.steps import Steps
from ..rates import newest_kept
from .rpt_verify import LIMIT, RptVerdict

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Without a ``submission_id`` one is derived from what goes in, so that the same rows, rates and
    revision give the same bundle; a release names its own.
    """

    stack: str
    purpose: str
    """``prototype``, ``release`` or ``rehearsal``."""
    flags: Flags
    submission_id: str | None
    release_window: str | None
    source_revision: str
    rates_dir: Path
    approved_rates_version: str | None = None
    limit: int = LIMIT
    statements_dir: str = ""
    """Where the signed permit of a rehearsal is looked for."""
    operator: str | None = None
    """Who rehearses: his own signature permits nothing."""
    site_rules: Sequence[SiteRule] = ()
    """Rules of the site that the manifest must keep."""

    @property
    def window(self) -> str | None:
        """The window of the manifest; a prototype has none, whatever the environment says."""
        return None if self.purpose == "prototype" else self.release_window or None


@dataclass(frozen=True)
class Ports:
    """What building a bundle works with."""

    connection: Connection
    store: ObjectStore
    local: ObjectStore
    """The bundle folder of this controller; an overlay of it in check mode."""
    policy: Policy
    manifest_signer: Signer
    log_signer: Signer
    clock: Clock
    steps: Steps = field(default_factory=Steps)
    progress: Progress = field(default_factory=lambda: Progress(say_into(None)))


def approved_catalog(order: Order, period_ids: list[str]) -> Catalog:
    """Return the newest kept rates that cover the periods, once they are those approved.

    :raises ApgmsError: ``rates.not_approved`` and those of :func:`newest_kept`
    """
    catalog = newest_kept(order.rates_dir, period_ids)
    approved = order.approved_rates_version
    if approved and catalog.rates_version != approved:
        raise ApgmsError(
            "rates.not_approved",
            "The rates are not those of the approved prototype run",
            where=str(order.rates_dir / catalog.rates_version),
            why=f"rates_version is {catalog.rates_version}; audit approved {approved}",
            mend="ansible-playbook -i inventories/proto playbooks/proto_release.yml"
            "  # have its manifest approved by audit, then run the same command again",
        )
    return catalog


def require_named(order: Order) -> None:
    """Require that a release, or a rehearsal, was named.

    :raises ApgmsError: ``bundle.unnamed``
    """
    needed = {"release": ("submission_id", "release_window"), "rehearsal": ("submission_id",)}
    missing = [name for name in needed.get(order.purpose, ()) if not getattr(order, name)]
    if missing:
        raise ApgmsError(
            "bundle.unnamed",
            f"A {order.purpose} must be named before its bundle is built",
            where=" and ".join(f"apgms_{name}" for name in missing),
            why="a production bundle is frozen under its submission id, a release for its window",
            mend="export RELEASE_WINDOW=YYYYMMDDHHMM  # when the window opens"
            if "release_window" in missing
            else "set apgms_submission_id in the inventory",
        )


def require_pinned(ports: Ports) -> None:
    """Require that the policy pins the manifest key.

    :raises ApgmsError: ``signer.unpinned``
    """
    signer = ports.manifest_signer
    if signer.key_id not in ports.policy.manifest_keys:
        raise ApgmsError(
            "signer.unpinned",
            "The manifest key is not one of this stack",
            where="apgms_manifest_key",
            why=f"its key id is {signer.key_id}; the policy pins"
            f" {', '.join(sorted(ports.policy.manifest_keys)) or 'none'}",
            mend="name the manifest key of this stack, or pin this one in a signed policy",
        )


def require_rows(verdict: RptVerdict) -> None:
    """Require that there is something to release.

    :raises ApgmsError: ``bundle.empty``
    """
    if verdict.total == 0:
        raise ApgmsError(
            "bundle.empty",
            "There is nothing to release",
            where="tables periods and rpt_tokens",
            why="no period in READY_RPT has an RPT; usable RPTs of periods in other states:"
            f" {verdict.left_out or 'none'}",
            mend="let APGMS close the periods and issue RPTs; on proto: make seed STACK=proto",
        )


def require_same_inputs(order: Order, manifest: Manifest) -> None:
    """Require that a frozen manifest is what the order asks for.

    :raises ApgmsError: ``bundle.other_inputs``
    """
    wanted = {
        "purpose": (order.purpose, manifest.purpose),
        "flags": (order.flags, manifest.flags),
        "release_window": (order.window, manifest.release_window),
        "source_revision": (order.source_revision, manifest.source_revision),
        "rates_version": (
            order.approved_rates_version or manifest.rates_version,
            manifest.rates_version,
        ),
    }
    differing = [f"{name}: asked {a}, frozen {b}" for name, (a, b) in wanted.items() if a != b]
    if differing:
        raise ApgmsError(
            "bundle.other_inputs",
            "The submission id stands for another bundle, which is frozen",
            where=f"apgms_submission_id {manifest.submission_id}",
            why="; ".join(differing),
            mend="give the new release a submission id of its own, or put the old inputs back",
        )
