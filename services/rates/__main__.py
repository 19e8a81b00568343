# GNU General Public License v3.0+ (see COPYING)
"""Publish rates catalogs.

PYTHONPATH=.collections python -m services.rates publish --object-store file:///FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import publish

SHIPPED = Path(__file__).resolve().parents[2] / "roles" / "rates" / "files" / "rates"
"""The catalogs that come with the collection."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="services.rates", description="Publish rates catalogs.")
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("publish", help="put every catalog of a folder into an object store")
    verb.add_argument("--object-store", required=True, help="file:///FOLDER or s3://BUCKET/PREFIX")
    verb.add_argument("--object-store-endpoint", help="of an S3 server other than AWS")
    verb.add_argument("--folder", type=Path, default=SHIPPED, help="VERSION/catalog.json below it")
    options = parser.parse_args()
    try:
        store = open_object_store(options.object_store, options.object_store_endpoint)
        new = publish(store, options.folder)
    except ApgmsError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
    print(f"Published {', '.join(new) if new else 'nothing new'} to {store.url}/rates/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
