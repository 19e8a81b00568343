#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: ledger_seed
short_description: Fill the sandbox ledger of the prototype stack
version_added: 0.1.0
description:
  - Makes synthetic entities with payroll, sales and purchases, the deposits of their PAYGW and GST
    into C(owa_ledger), closed periods and issued tokens, and loads them with COPY in one
    transaction. Payroll and trade lie in a schema of their own, C(apgms_sandbox).
  - The rows are a pure function of the seed number, the sizes, the periods, the rates, the time of
    issue and the key.
  - Refuses every stack but proto, and a database that holds other rows. A database that holds this
    very seed is left as it is; each row of it is compared.
  - ABNs fail their checksum on purpose, so that none is that of a real business.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description:
      - Makes and counts the rows that the seed would add, and writes none.
      - Rows that are there are compared with the seed's, in a transaction that is rolled back.
  diff_mode:
    support: full
    description: Shows the number of rows of each table.
  async:
    support: none
    description: The controller waits beside the module, to show how far it is.
options:
  seed_number:
    description: The same number gives the same ledger.
    type: int
    default: 1
  entities:
    description: How many entities, 3 to 100000.
    type: int
    default: 100
  periods:
    description:
      - Ids of the reporting periods, such as V(2025-09) or V(2025Q4). One kept rates catalog must
        cover them all, and each must be over at the time of issue.
    type: list
    elements: str
    required: true
  issued_at:
    description:
      - When the periods are closed and the tokens issued, ISO 8601 with a time zone.
      - Without it, the database's time when the ledger is first seeded, and the same time again on
        every later run.
    type: str
  rates_dir:
    description: Folder where M(apgms.release.rates_catalog) keeps the verified catalogs.
    type: path
    required: true
  rpt_key:
    description:
      - File with the Ed25519 key that tokens are issued with, as APGMS keeps it, base64 of the
        32-byte seed or of the 64-byte secret. The policy pins its public key.
    type: path
    required: true
  progress_file:
    description:
      - File that progress is appended to, a line at a time.
      - On the controller the task shows these lines itself while it runs, and this is not needed.
    type: path
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Seed the sandbox ledger
  apgms.release.ledger_seed:
    stack: proto
    seed_number: 1
    entities: 100
    periods: [2025-09]
    rates_dir: libs/rates
    rpt_key: keys/rpt.seed
    database_url: postgresql://apgms@localhost/apgms_proto
"""

RETURN = r"""
rows:
  description: Rows of each table afterwards.
  returned: success
  type: dict
  sample: {owa_ledger: 10105, periods: 200, rpt_tokens: 200}
issued_at:
  description: When the tokens were issued.
  returned: success
  type: str
  sample: "2025-11-03T01:02:03.000Z"
rates_version:
  description: The rates that the amounts were computed with.
  returned: success
  type: str
"""

from datetime import datetime
from pathlib import Path

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import (
    DatabaseClock,
    iso_utc,
    parse_utc,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.rpt_key import open_rpt_key
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import (
    Progress,
    say_into,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed import (
    SeedRequest,
    require_proto,
    seed_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_kept,
)


def act(call: Call) -> Outcome:
    options = call.options
    require_proto(options["stack"])
    request = SeedRequest(
        stack=options["stack"],
        number=options["seed_number"],
        entities=options["entities"],
        period_ids=options["periods"],
        issued_at=_time(options["issued_at"]),
    )
    catalog = newest_kept(Path(options["rates_dir"]), request.period_ids)
    key = open_rpt_key(Path(options["rpt_key"]))
    database = connect(options["database_url"], options["database_password"], purpose="seed")
    with database as connection:
        seeded = seed_ledger(
            connection,
            DatabaseClock(connection),
            request,
            catalog,
            key.sign,
            check_mode=call.check_mode,
            progress=Progress(say_into(options["progress_file"])),
        )
    result = {
        "rows": seeded.after,
        "issued_at": iso_utc(seeded.issued_at),
        "rates_version": catalog.rates_version,
    }
    return Outcome(seeded.before != seeded.after, result, seeded.before, seeded.after)


def _time(text: str | None) -> datetime | None:
    try:
        return parse_utc(text) if text else None
    except ValueError as error:
        raise ApgmsError(
            "seed.malformed_time",
            "The time of issue cannot be read",
            where=f"issued_at: {text}",
            why=str(error),
            mend="write it like 2025-11-03T01:02:03Z, or leave it out",
        ) from None


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            "seed_number": {"type": "int", "default": 1},
            "entities": {"type": "int", "default": 100},
            "periods": {"type": "list", "elements": "str", "required": True},
            "issued_at": {"type": "str"},
            "rates_dir": {"type": "path", "required": True},
            "progress_file": {"type": "path"},
            "rpt_key": {"type": "path", "required": True, "no_log": False},
        },
    )


if __name__ == "__main__":
    main()
