# GNU General Public License v3.0+ (see COPYING)
"""The prototype stack from rates to smoke."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.site_rules import (
    parse_site_rules,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import open_gateway
from ansible_collections.apgms.release.plugins.module_utils.ports.rpt_key import open_rpt_key
from ansible_collections.apgms.release.plugins.module_utils.ports.stores import open_object_store
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.smoke import (
    SmokePorts,
    SmokeRequest,
    run_smoke,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import publish
from services.keys import make_keys, policy_document, write_policy
from services.rates.__main__ import SHIPPED
from tests.gateway_process import GatewayProcess
from tests.module_process import run_module

PERIODS = ["2025-09"]
PROBES = ["database", "object_store", "gateway", "rates", "chain", "token", "bas_labels"]


class Stack:
    """A prototype stack with a real database, a real gateway and a folder as object store."""

    def __init__(self, folder: Path, database_url: str, gateway: GatewayProcess) -> None:
        keys = make_keys(folder / "keys", "proto")
        document = policy_document(keys, environment=gateway.environment)
        pins = gateway.pins
        document["gateway"] |= {"hosts": list(pins.hosts), "keys": pins.keys}
        self.store = FolderStore(folder / "store")
        publish(self.store, SHIPPED)
        self.options = {
            "stack": "proto",
            "database_url": database_url,
            "object_store": self.store.url,
            "gateway_url": gateway.url,
            "policy": str(write_policy(keys, folder / "proto", document)),
            "rpt_key": str(keys.rpt_key),
            "rates_dir": str(folder / "libs" / "rates"),
            "periods": PERIODS,
            "entities": 4,
        }

    def run(self, module: str, check: bool = False, **changes: Any) -> dict[str, Any]:
        """Run a module in a process of its own."""
        options = {**self.options, **changes}
        return run_module(
            module, {name: options[name] for name in OPTIONS[module] & options.keys()}, check=check
        )

    def smoke(self, **changes: Any) -> dict[str, Any]:
        """Run the smoke test in this process."""
        options = {**self.options, **changes}
        rules = parse_site_rules(options.get("site_rules", ()), "site_rules")
        ports = SmokePorts(
            database=lambda: connect(options["database_url"], None, purpose="test"),
            store=lambda: open_object_store(options["object_store"]),
            gateway=lambda policy: open_gateway(options["gateway_url"], policy.gateway),
            rpt_key=lambda: open_rpt_key(Path(options["rpt_key"])),
        )
        rates_dir = Path(options["rates_dir"])
        return run_smoke(
            ports, SmokeRequest("proto", options["periods"], rates_dir, options["policy"], rules)
        )


OPTIONS = {
    "rates_catalog": {"object_store", "rates_dir", "periods"},
    "ledger_seed": {"stack", "database_url", "rpt_key", "rates_dir", "periods", "entities",
                    "issued_at"},
    "seed_check": {"stack", "database_url", "policy", "rates_dir", "periods", "entities", "limit"},
    "smoke_test": {"stack", "database_url", "policy", "rates_dir", "periods", "rpt_key",
                   "object_store", "gateway_url", "site_rules"},
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def seeded(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, gateway_process: GatewayProcess
) -> Iterator[Stack]:
    """A stack whose database is only copied."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute("CREATE DATABASE apgms_smoke TEMPLATE apgms_template")
        url = psycopg.conninfo.make_conninfo(postgres_url, dbname="apgms_smoke")
        stack = Stack(tmp_path_factory.mktemp("stack"), url, gateway_process)
        stack.run("rates_catalog")
        assert stack.run("ledger_seed")["changed"]
        yield stack
        server.execute("DROP DATABASE apgms_smoke WITH (FORCE)")


@pytest.fixture
def copy_url(seeded: Stack, postgres_url: str) -> Iterator[str]:
    """A copy of the seeded database, to damage."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute("CREATE DATABASE apgms_smoke_copy TEMPLATE apgms_smoke")
        yield psycopg.conninfo.make_conninfo(postgres_url, dbname="apgms_smoke_copy")
        server.execute("DROP DATABASE apgms_smoke_copy WITH (FORCE)")


def status(result: dict[str, Any]) -> dict[str, str]:
    return {probe["name"]: probe["status"] for probe in result["probes"]}


def failed(result: dict[str, Any]) -> list[str]:
    names: list[str] = result["summary"]["failed"]
    return names


def test_prediction_and_run_agree_and_the_second_run_changes_nothing(
    tmp_path: Path, database_url: str, gateway_process: GatewayProcess
) -> None:
    stack = Stack(tmp_path, database_url, gateway_process)
    for module in ("rates_catalog", "ledger_seed"):
        predicted, real, again = stack.run(module, check=True), stack.run(module), stack.run(module)
        assert predicted["changed"] and real["changed"] and not again["changed"]
        assert predicted["diff"] == real["diff"]
        assert again["diff"]["before"] == again["diff"]["after"] == real["diff"]["after"]
    checked = stack.run("seed_check")
    assert (checked["status"], checked["mismatch_total"], checked["changed"]) == ("pass", 0, False)


def test_every_probe_passes_and_says_what_it_found(seeded: Stack) -> None:
    smoke = seeded.run("smoke_test", check=True)
    assert not smoke.get("failed"), smoke["msg"]
    assert not smoke["changed"]
    result = smoke["result"]
    assert status(result) == dict.fromkeys(PROBES, "pass")
    assert result["summary"] == {"status": "pass", "passed": 7, "failed": []}
    labels = result["probes"][-1]
    assert set(labels["found"]) >= {"W1", "W2", "G1", "1A", "1B"}
    assert labels["found"]["W2"] == labels["expected"]["W2"] != "0"
    net = int(labels["found"]["1A"]) - int(labels["found"]["1B"])
    assert net == int(labels["expected"]["1A-1B"]) > 0
    assert seeded.smoke() == result


def test_a_database_that_is_down_fails_its_probes_only(seeded: Stack) -> None:
    smoke = seeded.run("smoke_test", database_url="postgresql://127.0.0.1:1/apgms")
    assert smoke["failed"] and "database: expected" in smoke["msg"]
    down = dict.fromkeys(PROBES, "fail")
    assert status(smoke["result"]) == {**down, "object_store": "pass", "rates": "pass"}
    assert "database.unreachable" in smoke["result"]["probes"][0]["found"]


@pytest.mark.parametrize(
    ("statement", "probe"),
    [
        ("UPDATE owa_ledger SET hash_after = 'x' WHERE id = 2", "chain"),
        ("UPDATE owa_ledger SET balance_after_cents = 0 WHERE id = 2", "chain"),
        ("TRUNCATE owa_ledger", "chain"),
        ("UPDATE apgms_sandbox.payroll_line SET gross_cents = gross_cents + 10000", "bas_labels"),
        ("UPDATE apgms_sandbox.payroll_line SET frequency = 'daily'", "bas_labels"),
        ("DELETE FROM apgms_sandbox.trade_line WHERE kind = 'purchase'", "bas_labels"),
        ("UPDATE periods SET final_liability_cents = 0 WHERE id = 1", "bas_labels"),
        ("DROP TABLE apgms_sandbox.trade_line", "bas_labels"),
    ],
)
def test_damage_fails_its_probe(seeded: Stack, copy_url: str, statement: str, probe: str) -> None:
    with psycopg.connect(copy_url, autocommit=True) as connection:
        connection.execute(statement.encode())
    assert failed(seeded.smoke(database_url=copy_url)) == [probe]


def test_another_gateway_and_another_key_are_found(seeded: Stack, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other", "proto")
    result = seeded.smoke(gateway_url="http://127.0.0.1:9", rpt_key=str(other.rpt_key))
    assert failed(result) == ["gateway", "token"]
    assert "gateway.unpinned_host" in result["probes"][2]["found"]


def test_rates_that_are_no_longer_the_newest_are_found(seeded: Stack, tmp_path: Path) -> None:
    newer = tmp_path / "new" / "2025-26"
    newer.mkdir(parents=True)
    text = (SHIPPED / "2024-25" / "catalog.json").read_text()
    text = text.replace('"rates_version": "2024-25"', '"rates_version": "2025-26"')
    (newer / "catalog.json").write_text(text.replace("2024-06-16", "2025-06-16"))
    store = FolderStore(tmp_path / "store")
    publish(store, SHIPPED)
    publish(store, newer.parent)
    assert failed(seeded.smoke(object_store=store.url)) == ["rates"]


def test_an_empty_store_fails(seeded: Stack, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/nothing"
    assert failed(seeded.smoke(object_store=store)) == ["object_store", "rates"]


def test_site_rules_are_probes(seeded: Stack) -> None:
    holds = "probes[?name=='bas_labels'].to_number(found.W2) | [0] > `0`"
    rules = [
        {"name": "something was withheld", "expression": holds},
        {"name": "misspelt", "expression": "summary.statsu == 'pass'"},
        {"name": "not a truth", "expression": "summary.status"},
    ]
    smoke = seeded.run("smoke_test", site_rules=rules)
    assert failed(smoke["result"]) == ["site: misspelt", "site: not a truth"]
    assert status(smoke["result"])["site: something was withheld"] == "pass"


@pytest.mark.parametrize("expression", ["probes[", "nosuch(probes)", "length(nowhere)", ""])
def test_a_malformed_site_rule_is_one_message(seeded: Stack, expression: str) -> None:
    with pytest.raises(ApgmsError, match="The site rule 'broken' cannot be evaluated") as error:
        seeded.smoke(site_rules=[("broken", expression)])
    assert error.value.reason == "site_rules.malformed"
    assert f"site_rules: {expression}" in str(error.value)


@pytest.mark.parametrize("module", ["ledger_seed", "seed_check", "smoke_test"])
def test_prod_is_refused_before_anything_is_opened(seeded: Stack, module: str) -> None:
    refused = seeded.run(
        module, stack="prod", database_url="postgresql://127.0.0.1:1/apgms", rates_dir="/nowhere"
    )
    assert refused["reason"] == "seed.stack"


def test_a_tampered_ledger_is_named_row_by_row(seeded: Stack, copy_url: str) -> None:
    with psycopg.connect(copy_url, autocommit=True) as connection:
        connection.execute("UPDATE owa_ledger SET hash_after = 'x' WHERE id IN (2, 9)")
    checked = seeded.run("seed_check", database_url=copy_url, limit=1)
    assert checked["failed"] and checked["status"] == "fail"
    assert checked["rules"]["ledger.hash_after"] == 2
    named = [row for row in checked["mismatches"] if row["rule"] == "ledger.hash_after"]
    assert [(row["table"], row["row"], row["found"]) for row in named] == [
        ("owa_ledger", "id 2", "x")
    ]
    assert "seed an empty database" in checked["msg"]
    assert seeded.run("ledger_seed", database_url=copy_url)["reason"] == "seed.other_rows"


@pytest.mark.parametrize("issued_at", ["yesterday", "2025-11-03T01:02:03"])
def test_a_malformed_time_of_issue_is_refused(seeded: Stack, issued_at: str) -> None:
    assert seeded.run("ledger_seed", issued_at=issued_at)["reason"] == "seed.malformed_time"


@pytest.mark.parametrize("content", [b"c2hvcnQ=\n", b"not base64", b""])
def test_an_unreadable_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ApgmsError) as error:
        open_rpt_key(tmp_path / "key")
    assert error.value.reason == "rpt_key.unreadable"
