# GNU General Public License v3.0+ (see COPYING)
"""The synthetic ledger as a pure function, and the tokens it issues."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.abn import has_valid_checksum
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.anomaly import anomalies
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.period_states import (
    PeriodState,
    close_period,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.periods import (
    parse_period_id,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rates import parse_catalog
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rpt_payload import compact
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.synthetic import (
    Plan,
    anomaly_vector,
    entities,
    pays,
    sales,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.token_issue import (
    compact_json,
    issue_token,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.seed_rows import (
    LEDGER_COLUMNS,
    THRESHOLDS,
    RowWriter,
)
from services.rates.__main__ import SHIPPED

CATALOG = parse_catalog((SHIPPED / "2024-25" / "catalog.json").read_bytes())
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ISSUED_AT = datetime(2026, 1, 5, tzinfo=UTC)
NO_EARLIER_ROWS = dict.fromkeys(LEDGER_COLUMNS, 1)

plans = st.builds(
    lambda number, count, valid: Plan(
        number, count, (parse_period_id("2025-02"), parse_period_id("2025Q4")), ISSUED_AT, CATALOG,
        valid,
    ),
    st.integers(-(2**63), 2**63),
    st.integers(3, 20),
    st.booleans(),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(plans)
def test_every_chain_can_be_released(plan: Plan) -> None:
    made = list(entities(plan))
    assert len({entity.abn for entity in made}) == plan.entities
    assert all(has_valid_checksum(entity.abn) is plan.valid_abns for entity in made)
    for entity in made:
        for calendar in plan.calendars:
            assert sum(pay.payee.withheld_cents for pay in pays(entity, calendar)) > 0
            taxed = [sale.item for sale in sales(plan, entity, calendar) if sale.item.gst_cents]
            assert taxed
            assert all(item.gst_cents > item.purchase_gst_cents for item in taxed)
            for tax_type in ("GST", "PAYGW"):
                vector = anomaly_vector(plan, entity, tax_type, calendar.period_id)
                assert anomalies(vector, THRESHOLDS) == []


@settings(max_examples=10, deadline=None)
@given(plans)
def test_the_same_plan_makes_the_same_rows(plan: Plan) -> None:
    one, two = (list(RowWriter(plan, KEY.sign, NO_EARLIER_ROWS, "").rows()) for _ in range(2))
    assert one == two


def test_the_rows_of_a_seed_number_never_change() -> None:
    """A seed number names the same ledger in every version of Python and of the collection."""
    plan = Plan(1, 5, (parse_period_id("2025-09"),), ISSUED_AT, CATALOG, False)
    digest = hashlib.sha256()
    for rows in RowWriter(plan, KEY.sign, NO_EARLIER_ROWS, "").rows():
        for table in sorted(rows):
            digest.update("".join(rows[table]).encode())
    assert digest.hexdigest() == (
        "08feb5b1cce37cfe47bf888606d05453c9b4e9a71b77ec57c474205207be6df5"
    )


def test_a_token_is_signed_over_its_compact_json_in_issue_order() -> None:
    payload = {"entity_id": "1", "amount_cents": 5, "anomaly_vector": {"dup_rate": 0.01}}
    token = issue_token(payload, KEY.sign)
    assert (
        token.payload_c14n
        == '{"entity_id":"1","amount_cents":5,"anomaly_vector":{"dup_rate":0.01}}'
    )
    assert token.payload_sha256 == hashlib.sha256(token.payload_c14n.encode()).hexdigest()
    KEY.public_key().verify(base64.b64decode(token.signature), token.payload_c14n.encode())


fractions = st.integers(1, 9_999).map(lambda number: number / 10_000)


@given(st.dictionaries(st.text(), st.text() | st.integers() | fractions))
def test_compact_json_is_that_of_ecmascript(value: dict[str, object]) -> None:
    assert compact_json(value) == compact(value)
    assert json.loads(compact_json(value)) == value


@settings(max_examples=10, deadline=None)
@given(plans)
def test_every_payload_is_written_as_ecmascript_writes_it(plan: Plan) -> None:
    for rows in RowWriter(plan, KEY.sign, NO_EARLIER_ROWS, "").rows():
        for line in rows["rpt_tokens"]:
            payload_c14n = line.split("\t")[8]
            assert compact(json.loads(payload_c14n)) == payload_c14n


@pytest.mark.parametrize(
    ("liability", "credited", "delta", "verdict"),
    [
        (100, 100, 0.0, PeriodState.READY_RPT),
        (100, 101, 0.0, PeriodState.BLOCKED_DISCREPANCY),
        (100, 99, 0.3, PeriodState.BLOCKED_DISCREPANCY),
        (100, 100, -0.21, PeriodState.BLOCKED_ANOMALY),
        (100, 100, 0.2, PeriodState.READY_RPT),
    ],
)
def test_closing_walks_the_allowed_states(
    liability: int, credited: int, delta: float, verdict: PeriodState
) -> None:
    vector = {"variance_ratio": 0, "dup_rate": 0, "gap_minutes": 0, "delta_vs_baseline": delta}
    walked = close_period(liability, credited, vector, THRESHOLDS)
    assert walked == [PeriodState.OPEN, PeriodState.CLOSING, verdict]
