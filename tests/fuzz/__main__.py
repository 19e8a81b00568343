# GNU General Public License v3.0+ (see COPYING)
"""Mutate, and show that nothing mutated is accepted: ``python -m tests.fuzz --count 20000``.

Ends with 1 where a mutation was accepted, a control was refused, or a reason never occurred; an
exception that is not a refusal ends the run with its traceback.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.domain.approval import (
    signers,
    ssh_signature,
    statement,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    parse_manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from services.postgres import get_server
from tests.fuzz import documents, statements
from tests.fuzz.world import World

Target = Callable[[World, random.Random, int], Iterator[str | None]]
SHARES: dict[Target, int] = {
    statements.texts: 25,
    statements.signed_wrongly: 12,
    statements.signatures: 20,
    statements.prototypes: 4,
    statements.uses: 3,
    statements.permits: 1,
    documents.signer_files: 10,
    documents.policies: 8,
    documents.manifests: 12,
    documents.flags: 5,
}
"""Targets with their percentage of the mutations."""
REASONS = {
    *(f"signers.{name}" for name in signers._MENDS),
    *(f"signature.{name}" for name in ssh_signature._MENDS),
    *(f"statement.{name}" for name in (*statement._MENDS, *statement._OTHER.values())),
    "statement.other_subject",
    *(f"policy.{name}" for name in (
        "malformed", "edited", "older", "skipped_version", "swapped", "unsigned", "other_stack",
        "shared_key", "unlisted_signer", "unreachable_quorum",
    )),
    *(f"manifest.{name}" for name in (
        "truncated", "altered", "malformed", "unknown_schema", "other_stack",
    )),
    *(f"flags.{name}" for name in ("malformed", "unstated", "forbidden", "disagree")),
    "stack.disagree",
}  # fmt: skip
"""Every reason that must occur; a new one in the core's tables must be met by a mutation."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="apgms-fuzz-") as name:
        server = get_server(Path(name) / "pg", cleanup_mode="stop")
        try:
            with connect(server.get_uri(), None, purpose="fuzz") as connection:
                world = World(connection, Path(name))
                found = _run(world, options.count, options.seed)
                _require_controls(world)
        finally:
            server.cleanup()
    return _report(found, options.seed, time.monotonic() - started)


def _run(world: World, count: int, seed: int) -> dict[str, Counter[str | None]]:
    found: dict[str, Counter[str | None]] = {}
    for target, share in SHARES.items():
        _require_controls(world)
        rng = random.Random(f"{seed} {target.__name__}")
        reasons = Counter(target(world, rng, -(-count * share // 100)))
        found[target.__name__] = reasons
        print(f"{target.__name__:15} {reasons.total():6,}  refused for {len(reasons)} reasons")
    return found


def _require_controls(world: World) -> None:
    """What is not mutated is accepted.

    :raises AssertionError: or the refusal
    """
    pairs = [world.signed(world.statement(kind)) for kind in ("prototype", "release")]
    world.put(pairs)
    assert not any(review.missing for review in world.reviews())
    assert load_policy(world.connection, str(world.path), "prod").version == 2
    data = world.manifest.to_bytes()
    parse_manifest(data, where="control", checksum=world.manifest.checksum, stack="prod")
    for stack, purpose, word in (("prod", "release", "0"), ("proto", "prototype", "1")):
        stated = dict.fromkeys(("SEED", "SMOKE", "DRY_RUN"), word)
        documents.resolve(stack, purpose, stated, "DRY_RUN", word, "environment")


def _report(found: dict[str, Counter[str | None]], seed: int, seconds: float) -> int:
    total = sum(found.values(), Counter[str | None]())
    accepted = {name: reasons[None] for name, reasons in found.items() if reasons[None]}
    missing = sorted(REASONS - {reason for reason in total if reason})
    for reason, count in sorted(total.items(), key=str):
        print(f"  {reason or 'ACCEPTED'}: {count:,}")
    verdict = f"{sum(accepted.values())} accepted: {accepted}" if accepted else "all refused"
    print(
        f"fuzz: {total.total():,} mutations, {verdict}, for {len(set(total) - {None})} reasons;"
        f" reasons never met: {', '.join(missing) or 'none'}; unmutated controls accepted;"
        f" seed {seed}, {seconds:.0f} s"
    )
    return 1 if accepted or missing else 0


if __name__ == "__main__":
    sys.exit(main())
