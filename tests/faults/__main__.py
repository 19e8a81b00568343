# GNU General Public License v3.0+ (see COPYING)
"""Run the crash points and the seeded schedules.

PYTHONPATH=.collections python -m tests.faults --seeds 500 [--first 0] [--only schedules]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import Progress
from services.postgres import get_server
from tests.conftest import APGMS_SCHEMA
from tests.faults.crash_points import BLOWS, points, strike
from tests.faults.invariants import Violation
from tests.faults.safeguards import SAFEGUARDS
from tests.faults.schedule import Schedule
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess

EVERY_SECONDS = 5.0


def main() -> int:
    options = _options()
    with (
        tempfile.TemporaryDirectory(prefix="apgms-faults-") as folder,
        _stack(Path(folder)) as base,
    ):
        struck, held = _strike_all(base, Path(folder)) if options.only != "schedules" else (0, 0)
        count = options.seeds if options.only != "crash-points" else 0
        seeds = range(options.first, options.first + count)
        failed = _run_schedules(base, Path(folder), seeds, options.without)
    print(
        f"faults: {struck} crash points struck, {struck - held} failed; {count} schedules"
        f" run, {len(failed)} failed{': seeds ' + ', '.join(map(str, failed)) if failed else ''}"
    )
    return 1 if failed or held < struck else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--without", choices=sorted(SAFEGUARDS), help="take a safeguard away: this must fail"
    )
    parser.add_argument("--only", choices=["crash-points", "schedules"])
    return parser.parse_args()


@contextmanager
def _stack(folder: Path) -> Iterator[Stack]:
    server = get_server(folder / "pg", cleanup_mode="stop")
    gateway_folder = folder / "gateway"
    gateway_folder.mkdir()
    gateway = GatewayProcess(gateway_folder).start()
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(APGMS_SCHEMA.read_bytes())
        stack = Stack(folder / "prod", server.get_uri(), gateway)
        yield stack.prepare(entities=0, virtual=True)
    finally:
        gateway.stop()
        server.cleanup()


def _strike_all(base: Stack, folder: Path) -> tuple[int, int]:
    """Return how many times a crash point was struck, and after how many of them all held."""
    stack = base.renewed(folder / "points", seed=1_000_000)
    found = points(stack, stack.bundle())
    blows = [(number, blow) for blow in BLOWS for number in range(len(found))]
    print(f"crash points: {len(found)}, each struck by: {', '.join(BLOWS)}", flush=True)
    held = 0
    progress = Progress(lambda line: print(line, flush=True))
    for done, (number, blow) in enumerate(blows):
        stack = base.renewed(folder / f"point-{done}", seed=1_000_001 + done)
        try:
            strike(stack, stack.bundle(), number, blow)
            held += 1
        except AssertionError as violation:
            print(f"{found[number]}, {blow}: {violation}", file=sys.stderr, flush=True)
        progress.done("crash points", done + 1, len(blows), "blows")
    return len(blows), held


def _run_schedules(base: Stack, folder: Path, seeds: range, without: str | None) -> list[int]:
    failed = []
    began = said = time.monotonic()
    for done, seed in enumerate(seeds, start=1):
        try:
            Schedule(base.renewed(folder / f"seed-{seed}", seed=seed), seed, without).run()
        except Violation as violation:
            failed.append(seed)
            print(violation, file=sys.stderr, flush=True)
        now = time.monotonic()
        if now - said > EVERY_SECONDS:
            said = now
            left = (now - began) / done * (len(seeds) - done)
            print(f"schedules: {done} of {len(seeds)}, {left:.0f} s left", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
