# GNU General Public License v3.0+ (see COPYING)
"""The seed, and its recomputation by code that shares nothing with it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import SystemClock
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.audit_log import append
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.check_seed import (
    Checked,
    Expectation,
    check_seed,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed import (
    Seeded,
    SeedRequest,
    seed_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_shipped,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import turn
from services.rates.__main__ import SHIPPED

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PERIODS = ("2025-09", "2025Q4")
CATALOG = newest_shipped(SHIPPED, PERIODS)
ISSUED_AT = datetime(2026, 1, 5, 3, 4, 5, tzinfo=UTC)
REQUEST = SeedRequest("proto", 1, 12, PERIODS, ISSUED_AT)
_of_database = psycopg.conninfo.make_conninfo
TABLES = ("owa_ledger", "periods", "rpt_tokens", "audit_log", "remittance_destinations",
          "apgms_sandbox.payroll_line", "apgms_sandbox.trade_line")  # fmt: skip


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database_url, None, purpose="test") as opened:
        yield opened


def seed(
    connection: psycopg.Connection[Any], request: SeedRequest = REQUEST, check_mode: bool = False
) -> Seeded:
    return seed_ledger(connection, SystemClock(), request, CATALOG, KEY.sign, check_mode=check_mode)


def check(connection: psycopg.Connection[Any], entities: int = 12) -> Checked:
    public = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
    expectation = Expectation(entities, PERIODS, CATALOG.data, {"rpt-1": public})
    return check_seed(connection, expectation, limit=5)


def dump(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def test_an_independent_recomputation_agrees(connection: psycopg.Connection[Any]) -> None:
    seeded = seed(connection)
    checked = check(connection)
    assert checked.mismatches == []
    assert checked.to_json()["status"] == "pass"
    assert seeded.after["periods"] == 12 * len(PERIODS) * 2
    assert seeded.after == {table: len(rows) for table, rows in dump(connection).items()}


def test_every_scale_frequency_and_code_occurs(connection: psycopg.Connection[Any]) -> None:
    seed(connection, replace(REQUEST, entities=60))
    payroll = "SELECT DISTINCT {} FROM apgms_sandbox.payroll_line"
    scales = {row[0] for row in connection.execute(payroll.format("scale"))}
    frequencies = {row[0] for row in connection.execute(payroll.format("frequency"))}
    codes = connection.execute("SELECT DISTINCT kind, gst_code FROM apgms_sandbox.trade_line")
    assert scales == {"1", "2", "3", "4-resident", "4-foreign", "5", "6"}
    assert frequencies == {"weekly", "fortnightly", "monthly", "quarterly"}
    assert set(codes) == {("sale", "GST"), ("sale", "GST_FREE"), ("sale", "EXEMPT"),
                          ("sale", "ZERO_RATED"), ("purchase", "GST")}  # fmt: skip
    assert check(connection, entities=60).total == 0


def test_the_same_seed_gives_the_same_rows(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    seed(connection)
    first = dump(connection)
    tables = ", ".join(TABLES)
    connection.execute(f"TRUNCATE {tables}")
    seed(connection)
    assert dump(connection) == first
    connection.execute(f"TRUNCATE {tables}")
    seed(connection, replace(REQUEST, number=2))
    other = dump(connection)
    assert all(other[table] != first[table] for table in TABLES)


def test_seeding_again_changes_nothing(connection: psycopg.Connection[Any]) -> None:
    first = seed(connection, replace(REQUEST, issued_at=None))
    rows = dump(connection)
    again = seed(connection, replace(REQUEST, issued_at=None))
    assert again.before == again.after == first.after
    assert again.issued_at == first.issued_at
    assert dump(connection) == rows


def test_other_entries_of_the_audit_log_are_left_alone(
    connection: psycopg.Connection[Any],
) -> None:
    for number in range(2):
        with connection.transaction():
            append(connection, "auditor", "verified", {"number": number})
        seeded = seed(connection)
        counted = connection.execute("SELECT count(*) FROM audit_log").fetchone()
        assert counted == (seeded.after["audit_log"],)
    assert check(connection).total == 0


def test_check_mode_predicts_and_writes_nothing(connection: psycopg.Connection[Any]) -> None:
    predicted = seed(connection, check_mode=True)
    found = connection.execute(
        "SELECT count(*), to_regclass('apgms_sandbox.trade_line') FROM periods"
    )
    assert found.fetchone() == (0, None)
    real = seed(connection)
    assert (predicted.before, predicted.after) == (real.before, real.after)
    assert seed(connection, check_mode=True).after == real.after


def test_the_next_row_of_each_table_finds_a_free_id(connection: psycopg.Connection[Any]) -> None:
    seed(connection)
    row = connection.execute(
        "INSERT INTO remittance_destinations (abn, label, rail, reference)"
        " VALUES ('53004085616', 'ATO', 'EFT', '1') RETURNING id"
    ).fetchone()
    assert row == (12 * len(PERIODS) + 1,)


def test_other_rows_are_refused_and_named(connection: psycopg.Connection[Any]) -> None:
    seed(connection)
    connection.execute("UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 3")
    rows = dump(connection)
    with pytest.raises(
        ApgmsError, match="owa_ledger: 1 rows of the seed missing, 1 rows not"
    ) as error:
        seed(connection)
    assert error.value.reason == "seed.other_rows"
    assert dump(connection) == rows


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stack": "prod"}, "seed.stack"),
        ({"entities": 2}, "seed.size"),
        ({"entities": 100_001}, "seed.size"),
        ({"period_ids": ()}, "seed.periods"),
        ({"period_ids": ("2025Q4", "2025-Q4")}, "seed.periods"),
        ({"period_ids": ("2025-13",)}, "period.malformed"),
        ({"issued_at": ISSUED_AT - timedelta(days=5)}, "seed.period_not_over"),
    ],
)
def test_what_cannot_be_seeded_is_refused(
    connection: psycopg.Connection[Any], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ApgmsError) as error:
        seed(connection, replace(REQUEST, **changes))
    assert error.value.reason == reason
    assert connection.execute("SELECT count(*) FROM periods").fetchone() == (0,)


def test_a_missing_table_is_named(connection: psycopg.Connection[Any]) -> None:
    connection.execute("DROP TABLE audit_log")
    with pytest.raises(ApgmsError, match="no table audit_log") as error:
        seed(connection)
    assert error.value.reason == "database.missing_table"


DAMAGES = {
    "ledger.balance": "UPDATE owa_ledger SET amount_cents = amount_cents - 1 WHERE id = 7",
    "ledger.prev_hash": "UPDATE owa_ledger SET prev_hash = 'x' WHERE id = 7",
    "ledger.hash_after": "UPDATE owa_ledger SET bank_receipt_hash = 'x' WHERE id = 7",
    "payroll.withheld": "UPDATE apgms_sandbox.payroll_line SET withheld_cents = 0 WHERE payee = 1",
    "trade.gst": "UPDATE apgms_sandbox.trade_line SET gst_cents = gst_cents + 1 WHERE item = 1",
    "periods.complete": "DELETE FROM periods WHERE id = 3",
    "periods.liability": "UPDATE periods SET final_liability_cents = 1 WHERE id = 3",
    "periods.credited": "UPDATE periods SET credited_to_owa_cents = 1 WHERE id = 3",
    "periods.running_balance_hash": "UPDATE periods SET running_balance_hash = 'x' WHERE id = 3",
    "periods.merkle_root": "UPDATE periods SET merkle_root = 'x' WHERE id = 3",
    "periods.state": "UPDATE periods SET anomaly_vector = anomaly_vector"
    " || '{\"delta_vs_baseline\": -0.21}' WHERE id = 3",
    "tokens.one_a_period": "DELETE FROM rpt_tokens WHERE id = 4",
    "tokens.payload": "UPDATE rpt_tokens SET payload = payload || '{\"amount_cents\": 1}'"
    " WHERE id = 4",
    "tokens.issue_order": "UPDATE rpt_tokens SET payload_c14n = payload::text WHERE id = 4",
    "tokens.payload_c14n": "UPDATE rpt_tokens SET payload_c14n = '{}' WHERE id = 4",
    "tokens.payload_sha256": "UPDATE rpt_tokens SET payload_sha256 = NULL WHERE id = 4",
    "tokens.expiry": "UPDATE rpt_tokens SET created_at = created_at - interval '1 s' WHERE id = 4",
    "tokens.status": "UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 4",
    "tokens.nonce": "UPDATE rpt_tokens SET payload = payload || jsonb_build_object('nonce',"
    " (SELECT payload ->> 'nonce' FROM rpt_tokens WHERE id = 5)) WHERE id = 4",
    "tokens.destination": "UPDATE remittance_destinations SET reference = 'x' WHERE id = 2",
    "tokens.signature": "UPDATE rpt_tokens SET signature = repeat('A', 86) || '==' WHERE id = 4",
    "audit.terminal_hash": "UPDATE audit_log SET payload_hash = 'x' WHERE seq = 9",
    "audit.events": "UPDATE audit_log SET action = 'x' WHERE seq = 9",
}


@pytest.fixture(scope="module")
def seeded_template(postgres_url: str) -> Iterator[str]:
    """The name of a seeded database that tests copy."""
    name = "apgms_seeded"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE apgms_template")
        with connect(_of_database(postgres_url, dbname=name), None, purpose="test") as opened:
            seed(opened)
        yield name
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def seeded(postgres_url: str, seeded_template: str) -> Iterator[psycopg.Connection[Any]]:
    """A seeded database to damage."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE apgms_damaged TEMPLATE {seeded_template}")
        url = _of_database(postgres_url, dbname="apgms_damaged")
        with connect(url, None, purpose="test") as opened:
            yield opened
        server.execute("DROP DATABASE apgms_damaged WITH (FORCE)")


@pytest.mark.parametrize("rule", DAMAGES)
def test_each_damage_is_found_by_its_rule(seeded: psycopg.Connection[Any], rule: str) -> None:
    assert seeded.execute(DAMAGES[rule].encode()).rowcount > 0
    checked = check(seeded)
    assert checked.rules[rule] > 0
    assert rule in {mismatch.rule for mismatch in checked.mismatches}


def test_every_rule_has_its_damage(seeded: psycopg.Connection[Any]) -> None:
    assert check(seeded).rules == dict.fromkeys(DAMAGES, 0)


def test_a_token_of_another_key_is_named(seeded: psycopg.Connection[Any]) -> None:
    other = base64.b64encode(bytes(31) + b"\1").decode()
    checked = check_seed(seeded, Expectation(12, PERIODS, CATALOG.data, {"rpt-2": other}), limit=2)
    assert checked.total == checked.rules["tokens.signature"] == 48
    assert [mismatch.row for mismatch in checked.mismatches] == ["id 1", "id 2"]
    assert "rpt-2" in str(checked.mismatches[0].expected)


def test_the_kill_switch_stops_a_seed_and_not_the_comparison_of_one(
    connection: psycopg.Connection[Any],
) -> None:
    migrate(connection)
    turn(connection, "proto", engaged=True, reason="wrong rates", actor="olivia")
    for check_mode in (True, False):
        with pytest.raises(ApgmsError, match="olivia set it") as caught:
            seed(connection, check_mode=check_mode)
        assert caught.value.reason == "kill_switch.on"
    assert not any(dump_of_ledger(connection))
    turn(connection, "proto", engaged=False, reason="mended", actor="olivia")
    seeded = seed(connection)
    turn(connection, "proto", engaged=True, reason="again", actor="olivia")
    assert seed(connection).before == seeded.after


def test_the_database_of_prod_is_not_seeded_under_another_name(
    connection: psycopg.Connection[Any],
) -> None:
    migrate(connection)
    connection.execute(
        "INSERT INTO apgms_release.policy (stack, version, sha256, document, signers)"
        " VALUES ('prod', 1, 'ab', '', '{auditor}')"
    )
    with pytest.raises(ApgmsError, match="database of prod") as caught:
        seed(connection)
    assert caught.value.reason == "seed.stack"
    assert not any(dump_of_ledger(connection))


def test_the_kill_switch_of_the_environment_stops_a_seed(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTO_KILL_SWITCH", "1")
    with pytest.raises(ApgmsError) as caught:
        seed(connection)
    assert caught.value.reason == "kill_switch.on"
    assert not any(dump_of_ledger(connection))


def dump_of_ledger(connection: psycopg.Connection[Any]) -> list[Any]:
    return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES[:5]]
