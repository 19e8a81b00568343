# GNU General Public License v3.0+ (see COPYING)
"""Every rule of an RPT row against rows as they lie in a real database."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import (
    Policy,
    parse_policy,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rpt import Checked
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.progress import Progress
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.rpt_verify import (
    RptVerdict,
    candidate_periods,
    verify_rows,
)
from services.keys import Keys, make_keys, policy_document
from services.loader import load
from tests.conftest import SHARED

Connection = psycopg.Connection[tuple[object, ...]]
ENTITIES = 5
ROWS = 2 * ENTITIES


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"), "prod")


@pytest.fixture(scope="module")
def policy(keys: Keys) -> Policy:
    return parse_policy(canonical(policy_document(keys)), "policy.json")


@pytest.fixture(scope="module")
def loaded(module_database_url: str, keys: Keys) -> Iterator[Connection]:
    with connect(module_database_url, None, purpose="test") as connection:
        load(connection, seed=1, entities=ENTITIES, periods=["2025-09"], rpt_key=keys.rpt_key)
        yield connection


@pytest.fixture
def connection(loaded: Connection) -> Iterator[Connection]:
    """A loaded ledger whose damage is undone after the test."""
    with rehearsal(loaded):
        yield loaded


def verify(
    connection: Connection, policy: Policy, limit: int = 50, later: timedelta = timedelta(0)
) -> tuple[RptVerdict, list[Checked]]:
    rows: list[Checked] = []
    verdict = verify_rows(
        connection, policy, datetime.now(UTC) + later, "r1", sink=rows.append, limit=limit
    )
    return verdict, rows


def reasons(connection: Connection, policy: Policy) -> dict[str, int]:
    return dict(verify(connection, policy)[0].reasons)


def test_a_loaded_ledger_is_fit_in_the_order_of_a_bundle(
    connection: Connection, policy: Policy
) -> None:
    verdict, rows = verify(connection, policy)
    assert (verdict.total, verdict.valid, verdict.invalid_total) == (ROWS, ROWS, 0)
    assert verdict.failure is None
    found = [(row.token.tax_type, row.token.period_id, row.token.id) for row in rows]
    assert found == sorted(found)
    row = connection.execute("SELECT sum(final_liability_cents) FROM periods").fetchone()
    assert row is not None
    assert verdict.amount_cents == row[0]
    assert candidate_periods(connection) == ["2025-09"]


def test_it_says_what_it_reads(connection: Connection, policy: Policy) -> None:
    lines: list[str] = []
    verify_rows(connection, policy, datetime.now(UTC), "r1", progress=Progress(lines.append))
    assert lines[:2] == [
        "Verify: the ledger rows of what is ready",
        f"Verify: reading {ROWS} RPTs",
    ]


SECOND = (
    "INSERT INTO rpt_tokens"
    " (abn, tax_type, period_id, payload, signature, created_at, payload_c14n)"
    " SELECT abn, tax_type, period_id, payload, signature, created_at, payload_c14n"
    " FROM rpt_tokens WHERE id = 3"
)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 3", {"rpt.status": 1}),
        ("UPDATE rpt_tokens SET status = 'consumed'", {"rpt.status": ROWS}),
        (
            "UPDATE rpt_tokens SET payload = jsonb_set(payload, '{amount_cents}', '1')"
            " WHERE id = 3",
            {"rpt.payload_unreadable": 1},
        ),
        (
            "UPDATE rpt_tokens SET payload = jsonb_set(payload, '{rail_id}', '\"BPAY\"'),"
            " payload_c14n = NULL, payload_sha256 = NULL WHERE id = 3",
            {"rpt.signature": 1},
        ),
        (
            "UPDATE rpt_tokens SET payload_sha256 = repeat('0', 64) WHERE id = 3",
            {"rpt.payload_hash": 1},
        ),
        (
            "UPDATE rpt_tokens SET signature ="
            " (SELECT signature FROM rpt_tokens WHERE id = 4) WHERE id = 3",
            {"rpt.signature": 1},
        ),
        (
            "UPDATE periods SET credited_to_owa_cents = credited_to_owa_cents - 51",
            {"rpt.unreconciled": ROWS},
        ),
        (
            "UPDATE periods SET final_liability_cents = final_liability_cents + 1 WHERE id = 1",
            {"rpt.field": 1, "rpt.unreconciled": 1},
        ),
        (
            "UPDATE periods SET anomaly_vector ="
            " jsonb_set(anomaly_vector, '{delta_vs_baseline}', '-0.21') WHERE id = 1",
            {"rpt.anomaly": 1},
        ),
        ("UPDATE periods SET merkle_root = 'x' WHERE id = 1", {"rpt.field": 1}),
        (
            "UPDATE owa_ledger SET hash_after = NULL WHERE abn = (SELECT abn FROM periods"
            " WHERE id = 1) AND tax_type = (SELECT tax_type FROM periods WHERE id = 1)",
            {"rpt.ledger_hash": 1, "rpt.ledger_chain": 1},
        ),
        (
            "UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 1",
            {"rpt.ledger_chain": 1},
        ),
        ("DELETE FROM owa_ledger", {"rpt.ledger_hash": ROWS}),
        (SECOND, {"rpt.second_token": 2, "rpt.nonce": 2}),
        (
            "UPDATE rpt_tokens SET created_at = created_at - interval '31 days' WHERE id = 3",
            {"rpt.age": 1},
        ),
        (
            "UPDATE rpt_tokens SET created_at = created_at + interval '15 minutes' WHERE id = 3",
            {"rpt.invalid_at_issue": 1, "rpt.age": 1},
        ),
    ],
)
def test_damage_is_found_and_named(
    connection: Connection, policy: Policy, damage: str, expected: dict[str, int]
) -> None:
    connection.execute(damage.encode())
    assert reasons(connection, policy) == expected


def test_invalid_rows_are_listed_up_to_a_limit_with_the_total(
    connection: Connection, policy: Policy
) -> None:
    connection.execute("UPDATE rpt_tokens SET status = 'consumed' WHERE id > 2")
    verdict, rows = verify(connection, policy, limit=3)
    assert (verdict.total, verdict.valid, verdict.invalid_total) == (ROWS, 2, ROWS - 2)
    assert len(verdict.invalid) == 3
    assert len(rows) == 2
    assert verdict.failure is not None
    assert f"{ROWS - 2} of {ROWS} RPT rows" in verdict.failure
    for row in verdict.invalid:
        assert f"{row['id']} ({row['abn']}" in verdict.failure


def test_a_revoked_token_that_was_issued_again_is_history(
    connection: Connection, policy: Policy
) -> None:
    connection.execute(SECOND.encode())
    connection.execute("UPDATE rpt_tokens SET status = 'REVOKED' WHERE id = 3")
    verdict, rows = verify(connection, policy)
    assert verdict.total == ROWS
    assert 3 not in {row.token.id for row in rows}
    assert dict(verdict.reasons) == {"rpt.nonce": 1}  # the copy; a true re-issue has its own


def test_other_periods_are_left_out_and_counted(connection: Connection, policy: Policy) -> None:
    connection.execute("UPDATE periods SET state = 'BLOCKED_ANOMALY' WHERE tax_type = 'GST'")
    connection.execute("DELETE FROM rpt_tokens WHERE id = (SELECT max(id) FROM rpt_tokens t"
                       " WHERE tax_type = 'PAYGW')")  # fmt: skip
    connection.execute("DELETE FROM periods WHERE id = (SELECT min(id) FROM periods"
                       " WHERE tax_type = 'GST')")  # fmt: skip
    verdict, rows = verify(connection, policy)
    assert {row.token.tax_type for row in rows} == {"PAYGW"}
    assert verdict.left_out == {"BLOCKED_ANOMALY": ENTITIES - 1, "no period": 1}
    assert verdict.without_token == 1
    assert verdict.total == ENTITIES - 1


def test_expired_since_is_told_and_is_no_error(connection: Connection, policy: Policy) -> None:
    verdict, _ = verify(connection, policy, later=timedelta(days=1))
    assert (verdict.expired_since, verdict.invalid_total) == (ROWS, 0)


def test_without_a_pinned_key_nothing_is_called_valid(connection: Connection, keys: Keys) -> None:
    policy = parse_policy(canonical(policy_document(keys, rpt_keys={})), "policy.json")
    verdict, rows = verify(connection, policy)
    assert rows == []
    assert dict(verdict.reasons) == {"rpt.no_key": ROWS}
    assert "unverifiable: no key" in verdict.invalid[0]["findings"][0]


def test_deployments_with_fewer_columns(connection: Connection, policy: Policy) -> None:
    for name in ("payload_c14n", "payload_sha256"):
        connection.execute(f"ALTER TABLE rpt_tokens DROP COLUMN {name}".encode())
    for name in ("merkle_root", "running_balance_hash", "anomaly_vector", "thresholds"):
        connection.execute(f"ALTER TABLE periods DROP COLUMN {name}".encode())
    verdict, rows = verify(connection, policy)
    assert (verdict.valid, len(rows)) == (ROWS, ROWS)
    assert {"rpt_tokens.payload_c14n", "periods.merkle_root"} <= set(verdict.columns_absent)
    assert "periods.state" not in verdict.columns_absent


def test_deployments_with_more_columns(connection: Connection, policy: Policy) -> None:
    connection.execute(
        "ALTER TABLE rpt_tokens ADD nonce text, ADD kid text, ADD expires_at timestamptz,"
        " ADD unknown int"
    )
    connection.execute(
        "UPDATE rpt_tokens SET nonce = payload->>'nonce',"
        " expires_at = (payload->>'expiry_ts')::timestamptz"
    )
    assert reasons(connection, policy) == {}
    connection.execute("UPDATE rpt_tokens SET kid = 'rpt-other' WHERE id = 3")
    connection.execute("UPDATE rpt_tokens SET nonce = 'x' WHERE id = 4")
    connection.execute("UPDATE rpt_tokens SET expires_at = expires_at + interval '1s' WHERE id = 5")
    assert reasons(connection, policy) == {"rpt.field": 2, "rpt.no_key": 1}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("ALTER TABLE rpt_tokens DROP COLUMN signature", "database.missing_column"),
        ("ALTER TABLE owa_ledger DROP COLUMN hash_after", "database.missing_column"),
        ("DROP TABLE periods", "database.missing_table"),
    ],
)
def test_without_what_is_needed_nothing_is_judged(
    connection: Connection, policy: Policy, damage: str, reason: str
) -> None:
    connection.execute(damage.encode())
    with pytest.raises(ApgmsError) as caught:
        verify(connection, policy)
    assert caught.value.reason == reason


@pytest.mark.skipif(not SHARED.exists(), reason="no shared vectors here")
def test_a_real_token_and_its_ledger(connection: Connection, policy: Policy) -> None:
    file = json.loads((SHARED / "vectors/evidence_12345678901_2025-09_GST.json").read_text())
    key = [file["meta"][name] for name in ("abn", "taxType", "periodId")]
    connection.execute("UPDATE periods SET state = 'RELEASED'")
    period = {**file["period"], "state": "READY_RPT"}
    connection.execute(
        "INSERT INTO periods (abn, tax_type, period_id, state, accrued_cents,"
        " credited_to_owa_cents, final_liability_cents, merkle_root, running_balance_hash,"
        " anomaly_vector, thresholds) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [*key, *(Jsonb(one) if isinstance(one, dict) else one for one in period.values())],
    )
    for row in file["owa_ledger"][:3]:
        connection.execute(
            "INSERT INTO owa_ledger (abn, tax_type, period_id, transfer_uuid, amount_cents,"
            " balance_after_cents, bank_receipt_hash, prev_hash, hash_after, created_at)"
            " VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, %s, %s, %s, %s)",
            [*key, *list(row.values())[1:]],
        )
    connection.execute(
        "INSERT INTO rpt_tokens (abn, tax_type, period_id, payload, signature, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        [*key, Jsonb(file["rpt"]["payload"]), file["rpt"]["signature"], file["rpt"]["created_at"]],
    )
    patient = dataclasses.replace(policy, max_token_age_seconds=10**9, rpt_keys={})
    verdict, _ = verify(connection, patient)
    assert dict(verdict.reasons) == {
        "rpt.no_key": 1, "rpt.ledger_hash": 1, "rpt.ledger_chain": 1,
    }  # fmt: skip
    found = " ".join(verdict.invalid[0]["findings"])
    assert "unverifiable: no key" in found
    assert "null_hash in 3" in found
