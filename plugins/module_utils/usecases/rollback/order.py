# GNU General Public License v3.0+ (see COPYING)
"""What a rollback is asked to do, and what it works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ...ports.signer import Signer
from ..acts.journal import Journal
from ..acts.steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Order:
    """What is to be rolled back, by whom and why.

    ``target`` is a manifest checksum or a beginning of it; ``plan_sha256`` the plan that was shown;
    ``holder`` is how other runs will know this one.
    """

    stack: str
    target: str
    plan_sha256: str | None
    reason: str
    operator: str
    operator_key: str | None
    statements_dir: str
    holder: str


@dataclass(frozen=True, kw_only=True)
class StackPorts:
    """What an act on a stack works with."""

    connection: Connection
    store: ObjectStore
    policy: Policy
    clock: Clock
    steps: Steps = field(default_factory=Steps)

    @property
    def journal(self) -> Journal:
        """The journal of the stack."""
        return Journal(self.connection, self.store, self.policy.stack, self.clock, self.steps)


@dataclass(frozen=True, kw_only=True)
class Ports(StackPorts):
    """What a rollback works with."""

    log_signer: Signer
    nonce: Callable[[], str]
    """Gives 32 hexadecimal digits that were never used before."""
