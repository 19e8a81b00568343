# GNU General Public License v3.0+ (see COPYING)
"""Measure: ``python -m tests.bench --only snapshot --rows 1000000``, or ``make bench``.

Every area is a module ``bench_<area>`` with ``measure(rows) -> list[Figure]``. The figures go to
build/bench.json; a figure that does not hold makes the run fail.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import TypedDict

AREAS = ("flow", "seed", "rpt", "snapshot", "gateway", "rollback", "evidence", "fleet")
OUTPUT = Path("build/bench.json")


class Figure(TypedDict):
    """One measured figure: ``holds`` says whether ``value`` is within ``limit``.

    A figure without a limit is the yardstick of others.
    """

    name: str
    value: float
    unit: str
    limit: float | None
    holds: bool


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench", description="Measure and compare.")
    parser.add_argument("--only", default="", choices=["", *AREAS])
    parser.add_argument("--rows", default="", help="size, where an area has one")
    options = parser.parse_args()
    rows = int(options.rows) if options.rows else None
    areas = [options.only] if options.only else [area for area in AREAS if _built(area)]
    if not all(map(_built, areas)):
        print(f"bench: {options.only} is not built yet", file=sys.stderr)
        return 1
    figures = [figure for area in areas for figure in _measure(area, rows)]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    missed = [figure["name"] for figure in figures if not figure["holds"]]
    missing = [area for area in AREAS if not _built(area)]
    print(f"bench: {len(figures)} figures in {OUTPUT}, {len(missed)} beyond their limit", end="")
    print(f"; not built yet: {', '.join(missing)}" if missing else "")
    return 1 if missed else 0


def _built(area: str) -> bool:
    return importlib.util.find_spec(f"tests.bench.bench_{area}") is not None


def _measure(area: str, rows: int | None) -> list[Figure]:
    module = importlib.import_module(f"tests.bench.bench_{area}")
    figures: list[Figure] = module.measure(rows) if rows else module.measure()
    for figure in figures:
        print(
            f"{figure['name']}: {figure['value']:g} {figure['unit']} ({_mark(figure)})", flush=True
        )
    return figures


def _mark(figure: Figure) -> str:
    if figure["limit"] is None:
        return "yardstick"
    return f"limit {figure['limit']:g}, {'holds' if figure['holds'] else 'BEYOND ITS LIMIT'}"


if __name__ == "__main__":
    sys.exit(main())
