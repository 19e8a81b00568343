# GNU General Public License v3.0+ (see COPYING)
"""Safeguards taken away, to show that the schedules notice."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import Body
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import (
    intent as release_intent,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import release
from ansible_collections.apgms.release.plugins.module_utils.usecases.release.records import (
    Context,
    Release,
)
from tests.faults.stack import Stack


def without_claims(stack: Stack) -> Callable[[], None]:
    """Let two manifests claim the same periods and RPTs."""
    with stack.connection() as connection:
        connection.execute("DROP INDEX IF EXISTS apgms_release.claim_period")
        connection.execute("DROP INDEX IF EXISTS apgms_release.claim_payload")
    return lambda: None


def without_intent(_stack: Stack) -> Callable[[], None]:
    """Send without an intent row."""

    def mutate() -> None:
        def intend(context: Context, manifest: Manifest, body: Body) -> Release:
            return release_intent.new_release(context, manifest, body)

        release.intend = intend

    return mutate


SAFEGUARDS = {"claims": without_claims, "intent": without_intent}
"""What can be taken away, and what takes it away: the result is called in each run's process."""
