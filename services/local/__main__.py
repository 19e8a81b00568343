# GNU General Public License v3.0+ (see COPYING)
"""Start and stop the embedded stacks of inventories/local.

    PYTHONPATH=.collections python -m services.local up [--root build/local]
    PYTHONPATH=.collections python -m services.local down

``up`` starts a PostgreSQL and two gateways on loopback, makes the keys and policies that are
missing and publishes the rates catalogs. What is there already is left as it is. The production-like
ledger is empty: ``services.loader`` fills it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .stacks import LocalStacks


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="services.local", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("act", choices=["up", "down"])
    parser.add_argument("--root", type=Path, default=Path("build/local"))
    options = parser.parse_args()
    stacks = LocalStacks(options.root.resolve())
    if options.act == "down":
        print(stacks.down())
        return 0
    stacks.up()
    print(f"The embedded stacks are up; {stacks.services_file} says where.")
    print("Next: make pull-rates STACK=proto INVENTORY=inventories/local")
    return 0


if __name__ == "__main__":
    sys.exit(main())
