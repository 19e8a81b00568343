#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: rates_catalog
short_description: Pull the newest rates catalog that covers the periods, and keep it
version_added: 0.1.0
description:
  - Reads every catalog published in the object store under C(rates/<rates_version>/), verifies each
    against its C(rates.bundle.sha256), and keeps the newest one that covers every day of every
    period. Newest is the one published last.
  - A catalog that is tampered with, incomplete or malformed refuses all of them, since it might be
    the newest. A catalog older than one kept here for the same periods is refused, and so is a
    version that was published twice with other content.
  - A kept catalog is never overwritten.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Reads and verifies the same catalogs; what would be kept stays in memory.
  diff_mode:
    support: full
    description: Shows the kept versions with their bundle hashes.
options:
  periods:
    description:
      - Ids of the reporting periods, such as V(2025-09), V(2025Q1) or V(2025-Q4).
      - A quarter is one of the calendar year that it names.
    type: list
    elements: str
    required: true
  rates_dir:
    description: Folder where verified catalogs are kept, C(<rates_version>/) below it.
    type: path
    required: true
extends_documentation_fragment:
  - apgms.release.object_store
"""

EXAMPLES = r"""
- name: Pull the latest rates catalog
  apgms.release.rates_catalog:
    object_store: s3://apgms-proto-evidence
    rates_dir: libs/rates
    periods: [2025-09]
  register: rates
"""

RETURN = r"""
rates_version:
  description: The version that covers the periods.
  returned: success
  type: str
  sample: 2024-25
bundle_sha256:
  description: The bundle hash that a manifest names, SHA-256 of the catalog file.
  returned: success
  type: str
effective_from:
  description: The first day on which these rates hold.
  returned: success
  type: str
  sample: "2024-07-01"
effective_to:
  description: The last day on which these rates hold.
  returned: success
  type: str
  sample: "2026-06-30"
published:
  description: The day on which the source was published.
  returned: success
  type: str
source:
  description: Where the figures come from.
  returned: success
  type: str
unverified:
  description: What the publisher of the catalog has not verified.
  returned: success
  type: list
  elements: str
folder:
  description: Folder of the kept catalog.
  returned: success
  type: str
"""

from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    OBJECT_STORE_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import ObjectStore
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    Pulled,
    pull,
)


def act(call: Call) -> Outcome:
    options = call.options
    store = open_object_store(options["object_store"], options["object_store_endpoint"])
    folder = Path(options["rates_dir"])
    kept: ObjectStore = FolderStore(folder)
    if call.check_mode:
        kept = OverlayStore(kept)
    return outcome_of(pull(store, kept, options["periods"]), folder)


def outcome_of(pulled: Pulled, folder: Path) -> Outcome:
    catalog = pulled.catalog
    result = {
        "rates_version": catalog.rates_version,
        "bundle_sha256": catalog.bundle_sha256,
        "effective_from": str(catalog.effective_from),
        "effective_to": str(catalog.effective_to),
        "published": str(catalog.published),
        "source": catalog.source,
        "unverified": list(catalog.unverified),
        "folder": str(folder / catalog.rates_version),
    }
    return Outcome(pulled.before != pulled.after, result, pulled.before, pulled.after)


def main() -> None:
    run_module(
        act,
        {
            **OBJECT_STORE_SPEC,
            "periods": {"type": "list", "elements": "str", "required": True},
            "rates_dir": {"type": "path", "required": True},
        },
    )


if __name__ == "__main__":
    main()
