# GNU General Public License v3.0+ (see COPYING)
"""Fill a local production-like ledger.

    PYTHONPATH=.collections python -m services.loader --database-url URL --seed 1 --entities 10 \\
        --periods 2025-09 2025-10 --rpt-key KEYFILE
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import parse_utc
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import Progress
from services.loader import load


def main() -> int:
    options = _options()
    progress = Progress(lambda line: print(line, file=sys.stderr, flush=True))
    try:
        with connect(
            options.database_url, os.environ.get("APGMS_DATABASE_PASSWORD"), purpose="loader"
        ) as connection:
            counts = load(
                connection,
                seed=options.seed,
                entities=options.entities,
                periods=options.periods,
                rpt_key=options.rpt_key,
                issued_at=options.issued_at,
                progress=lambda made: progress.done("Load", made, options.entities, "entities"),
            )
    except ApgmsError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{table}: {count} rows" for table, count in counts.items()))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="services.loader",
        description="Fill a local production-like ledger. Never point it at a real one.",
        epilog="A password of the database user is taken from APGMS_DATABASE_PASSWORD.",
    )
    parser.add_argument("--database-url", required=True, help="libpq URL without a password")
    parser.add_argument("--seed", type=int, required=True, help="the same seed, the same ledger")
    parser.add_argument("--entities", type=int, required=True, help="3 to 100000")
    parser.add_argument("--periods", nargs="+", required=True, help="such as 2025-09 or 2025Q4")
    parser.add_argument(
        "--rpt-key", type=Path, required=True, help="issuer's Ed25519 seed in base64"
    )
    parser.add_argument(
        "--issued-at", type=parse_utc, help="when the tokens are issued, ISO 8601 with zone; now"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
