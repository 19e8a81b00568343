# GNU General Public License v3.0+ (see COPYING)
"""What must hold in a seeded ledger, each rule as one SQL query for the rows that break it.

The rules are written from the documents (APGMS's tables and chains, Schedule 1, the GST rule) and
share no code with what wrote the rows. A query yields (row, expected, found), all text; parameters
are ``catalog`` (the rates catalog, JSON), ``entities`` and ``periods``.
"""
# ruff: noqa: S608 - the queries are put together from the constants below, from nothing else

from __future__ import annotations

from dataclasses import dataclass

_SHA = "encode(sha256(convert_to({}, 'UTF8')), 'hex')"
_KEY = "abn || ' ' || tax_type || ' ' || period_id"


@dataclass(frozen=True)
class Rule:
    """A rule: its name, the table it is about, and the query for the rows that break it."""

    name: str
    table: str
    query: str


def _over_chains(name: str, expected: str, found: str) -> Rule:
    """A rule on each ledger row and the row before it in its chain."""
    return Rule(
        name,
        "owa_ledger",
        f"""
        SELECT 'id ' || id, expected::text, found::text FROM (
            SELECT id, {expected} AS expected, {found} AS found FROM owa_ledger
            WINDOW chain AS (PARTITION BY abn, tax_type, period_id ORDER BY id)
        ) AS row WHERE expected IS DISTINCT FROM found ORDER BY id""",
    )


LEDGER_RULES = (
    _over_chains("ledger.balance", "sum(amount_cents) OVER chain", "balance_after_cents"),
    _over_chains(
        "ledger.prev_hash", "coalesce(lag(hash_after) OVER chain, '')", "coalesce(prev_hash, '')"
    ),
    _over_chains(
        "ledger.hash_after",
        _SHA.format("concat(prev_hash, bank_receipt_hash, balance_after_cents)"),
        "hash_after",
    ),
)

_LABELS = """
    SELECT abn, 'PAYGW' AS tax_type, period_id, sum(withheld_cents * payments) AS due
    FROM apgms_sandbox.payroll_line GROUP BY abn, period_id
    UNION ALL
    SELECT abn, 'GST', period_id,
        sum(CASE kind WHEN 'sale' THEN gst_cents ELSE -gst_cents END * quantity)
    FROM apgms_sandbox.trade_line GROUP BY abn, period_id"""

_CREDITED = """
    SELECT abn, tax_type, period_id, sum(amount_cents) AS credited,
        (array_agg(hash_after ORDER BY id DESC))[1] AS last_hash
    FROM owa_ledger GROUP BY abn, tax_type, period_id"""

_PAIR = _SHA.format("nodes[i] || coalesce(nodes[i + 1], nodes[i])")
_MERKLE = f"""
    WITH RECURSIVE level (abn, tax_type, period_id, nodes) AS (
        SELECT abn, tax_type, period_id, array_agg(hash_after ORDER BY id)
        FROM owa_ledger GROUP BY abn, tax_type, period_id
        UNION ALL
        SELECT abn, tax_type, period_id, (
            SELECT array_agg({_PAIR} ORDER BY i)
            FROM generate_series(1, cardinality(nodes), 2) AS i
        ) FROM level WHERE cardinality(nodes) > 1
    )
    SELECT abn, tax_type, period_id, nodes[1] AS root FROM level WHERE cardinality(nodes) = 1"""

_WITHHELD = """
    WITH bracket AS (
        SELECT substr(scale.key, 6) AS scale, row.number, (row.value ->> 0)::numeric AS bound,
            (row.value ->> 1)::numeric AS a, (row.value ->> 2)::numeric AS b
        FROM jsonb_each(%(catalog)s::jsonb -> 'paygw') AS scale,
            jsonb_array_elements(CASE jsonb_typeof(scale.value) WHEN 'array' THEN scale.value
                ELSE '[]' END) WITH ORDINALITY AS row (value, number)
    ), line AS (
        SELECT *, gross_cents / 100.0 AS earnings,
            (%(catalog)s::jsonb #>> ARRAY['paygw', 'scale4', substr(scale, 3)])::numeric AS no_tfn,
            floor(CASE frequency
                WHEN 'weekly' THEN gross_cents / 100.0
                WHEN 'fortnightly' THEN gross_cents / 200.0
                WHEN 'monthly'
                    THEN (gross_cents + (gross_cents %% 100 = 33)::int) / 100.0 * 3 / 13
                WHEN 'quarterly' THEN gross_cents / 1300.0
            END) + 0.99 AS x
        FROM apgms_sandbox.payroll_line
    ), weekly AS (
        SELECT line.*, greatest(coalesce(round(a * x - b), 0), 0) AS dollars
        FROM line LEFT JOIN LATERAL (
            SELECT a, b FROM bracket
            WHERE bracket.scale = line.scale AND (bound IS NULL OR x < bound)
            ORDER BY number LIMIT 1
        ) AS fit ON true
    )
    SELECT *, 100 * CASE
        WHEN no_tfn IS NOT NULL THEN floor(floor(earnings) * no_tfn)
        WHEN frequency = 'weekly' THEN dollars
        WHEN frequency = 'fortnightly' THEN dollars * 2
        WHEN frequency = 'monthly' THEN round(dollars * 13 / 3)
        WHEN frequency = 'quarterly' THEN dollars * 13
    END AS due FROM weekly"""

SOURCE_RULES = (
    Rule(
        "payroll.withheld",
        "apgms_sandbox.payroll_line",
        f"""
        SELECT abn || ' ' || period_id || ' payee ' || payee, trunc(due)::text,
            withheld_cents::text
        FROM ({_WITHHELD}) AS line WHERE due IS DISTINCT FROM withheld_cents ORDER BY 1""",
    ),
    Rule(
        "trade.gst",
        "apgms_sandbox.trade_line",
        """
        SELECT abn || ' ' || period_id || ' item ' || item || ' ' || kind, due::text,
            gst_cents::text
        FROM (
            SELECT *, round(price_cents
                * (%(catalog)s::jsonb #>> ARRAY['gst', gst_code])::numeric) AS due
            FROM apgms_sandbox.trade_line
        ) AS line WHERE due IS DISTINCT FROM gst_cents ORDER BY 1""",
    ),
)

PERIOD_RULES = (
    Rule(
        "periods.complete",
        "periods",
        """
        SELECT tax_type || ' ' || period_id, %(entities)s::text, count(periods.id)::text
        FROM unnest(%(periods)s::text[]) AS period_id
        CROSS JOIN unnest(ARRAY['GST', 'PAYGW']) AS tax_type
        LEFT JOIN periods USING (tax_type, period_id)
        GROUP BY tax_type, period_id HAVING count(periods.id) <> %(entities)s
        UNION ALL
        SELECT 'id ' || id, 'a period of ' || array_to_string(%(periods)s::text[], ', '), period_id
        FROM periods WHERE period_id <> ALL (%(periods)s::text[])""",
    ),
    Rule(
        "periods.liability",
        "periods",
        f"""
        SELECT {_KEY}, due::text, final_liability_cents::text
        FROM ({_LABELS}) AS labels FULL JOIN periods USING (abn, tax_type, period_id)
        WHERE due IS DISTINCT FROM final_liability_cents OR due IS DISTINCT FROM accrued_cents
        ORDER BY 1""",
    ),
    Rule(
        "periods.credited",
        "periods",
        f"""
        SELECT {_KEY}, credited::text, credited_to_owa_cents::text
        FROM ({_CREDITED}) AS chain FULL JOIN periods USING (abn, tax_type, period_id)
        WHERE credited IS DISTINCT FROM credited_to_owa_cents ORDER BY 1""",
    ),
    Rule(
        "periods.running_balance_hash",
        "periods",
        f"""
        SELECT {_KEY}, last_hash, running_balance_hash
        FROM ({_CREDITED}) AS chain FULL JOIN periods USING (abn, tax_type, period_id)
        WHERE last_hash IS DISTINCT FROM running_balance_hash ORDER BY 1""",
    ),
    Rule(
        "periods.merkle_root",
        "periods",
        f"""
        SELECT {_KEY}, root, merkle_root
        FROM ({_MERKLE}) AS tree FULL JOIN periods USING (abn, tax_type, period_id)
        WHERE root IS DISTINCT FROM merkle_root ORDER BY 1""",
    ),
    Rule(
        "periods.state",
        "periods",
        f"""
        SELECT {_KEY}, due, state FROM (
            SELECT *, CASE
                WHEN abs(final_liability_cents - credited_to_owa_cents)
                    > (thresholds ->> 'epsilon_cents')::bigint THEN 'BLOCKED_DISCREPANCY'
                WHEN (anomaly_vector ->> 'variance_ratio')::numeric
                        <= (thresholds ->> 'variance_ratio')::numeric
                    AND (anomaly_vector ->> 'dup_rate')::numeric
                        <= (thresholds ->> 'dup_rate')::numeric
                    AND (anomaly_vector ->> 'gap_minutes')::numeric
                        <= (thresholds ->> 'gap_minutes')::numeric
                    AND abs((anomaly_vector ->> 'delta_vs_baseline')::numeric)
                        <= (thresholds ->> 'delta_vs_baseline')::numeric
                THEN 'READY_RPT' ELSE 'BLOCKED_ANOMALY'
            END AS due FROM periods
        ) AS period WHERE due <> state ORDER BY 1""",
    ),
)

_PAYLOAD = """
    jsonb_build_object('entity_id', p.abn, 'period_id', p.period_id, 'tax_type', p.tax_type,
        'amount_cents', p.final_liability_cents, 'merkle_root', p.merkle_root,
        'running_balance_hash', p.running_balance_hash, 'anomaly_vector', p.anomaly_vector,
        'thresholds', p.thresholds)"""

TOKEN_RULES = (
    Rule(
        "tokens.one_a_period",
        "rpt_tokens",
        f"""
        SELECT {_KEY}, '1', count(t.id)::text
        FROM (SELECT * FROM periods WHERE state = 'READY_RPT') AS p
        FULL JOIN rpt_tokens AS t USING (abn, tax_type, period_id)
        GROUP BY abn, tax_type, period_id HAVING count(t.id) <> 1 OR count(p.id) <> 1
        ORDER BY 1""",
    ),
    Rule(
        "tokens.payload",
        "rpt_tokens",
        f"""
        SELECT 'id ' || t.id, {_PAYLOAD}::text, payload::text
        FROM rpt_tokens AS t JOIN periods AS p USING (abn, tax_type, period_id)
        WHERE NOT payload @> {_PAYLOAD} ORDER BY t.id""",
    ),
    Rule(
        "tokens.issue_order",
        "rpt_tokens",
        """
        SELECT 'id ' || id, 'the keys of the payload in issue order', keys FROM (
            SELECT id, (SELECT string_agg(key, ' ')
                FROM json_object_keys(payload_c14n::json) AS key) AS keys
            FROM rpt_tokens
        ) AS token WHERE keys <> 'entity_id period_id tax_type amount_cents merkle_root '
            || 'running_balance_hash anomaly_vector thresholds rail_id reference expiry_ts nonce'
        ORDER BY id""",
    ),
    Rule(
        "tokens.payload_c14n",
        "rpt_tokens",
        """
        SELECT 'id ' || id, payload::text, payload_c14n FROM rpt_tokens
        WHERE payload IS DISTINCT FROM payload_c14n::jsonb ORDER BY id""",
    ),
    Rule(
        "tokens.payload_sha256",
        "rpt_tokens",
        f"""
        SELECT 'id ' || id, due, payload_sha256
        FROM (SELECT *, {_SHA.format("payload_c14n")} AS due FROM rpt_tokens) AS token
        WHERE due IS DISTINCT FROM payload_sha256 ORDER BY id""",
    ),
    Rule(
        "tokens.expiry",
        "rpt_tokens",
        """
        SELECT 'id ' || id, 'valid for 15 minutes from ' || created_at, payload ->> 'expiry_ts'
        FROM rpt_tokens
        WHERE (payload ->> 'expiry_ts')::timestamptz IS DISTINCT FROM created_at + '15 minutes'
        ORDER BY id""",
    ),
    Rule(
        "tokens.status",
        "rpt_tokens",
        "SELECT 'id ' || id, 'ISSUED', status FROM rpt_tokens WHERE status <> 'ISSUED' ORDER BY id",
    ),
    Rule(
        "tokens.nonce",
        "rpt_tokens",
        """
        SELECT 'ids ' || string_agg(id::text, ', ' ORDER BY id), 'one token a nonce',
            payload ->> 'nonce'
        FROM rpt_tokens GROUP BY payload ->> 'nonce'
        HAVING count(*) > 1 OR (payload ->> 'nonce') IS NULL ORDER BY 1""",
    ),
    Rule(
        "tokens.destination",
        "rpt_tokens",
        """
        SELECT 'id ' || t.id, 'a row of remittance_destinations',
            concat_ws(' ', payload ->> 'rail_id', payload ->> 'reference')
        FROM rpt_tokens AS t WHERE NOT EXISTS (
            SELECT FROM remittance_destinations AS d WHERE d.abn = t.abn
                AND d.rail = payload ->> 'rail_id' AND d.reference = payload ->> 'reference'
        ) ORDER BY t.id""",
    ),
)

_EVENTS = f"""
    SELECT abn, tax_type, period_id, action, {_SHA.format("about || more || '}'")} AS payload_hash
    FROM (
        SELECT *, format('{{"abn":"%%s","tax_type":"%%s","period_id":"%%s",',
            abn, tax_type, period_id) AS about FROM periods
    ) AS period CROSS JOIN LATERAL (
        VALUES ('period.closing', '"from":"OPEN","to":"CLOSING"'),
            ('period.' || lower(state), format('"from":"CLOSING","to":"%%s"', state))
        UNION ALL
        SELECT 'rpt.issued', format('"payload_sha256":"%%s"', payload_sha256) FROM rpt_tokens AS t
        WHERE (t.abn, t.tax_type, t.period_id) = (period.abn, period.tax_type, period.period_id)
    ) AS event (action, more)"""

AUDIT_RULES = (
    Rule(
        "audit.terminal_hash",
        "audit_log",
        f"""
        SELECT 'seq ' || seq, due, terminal_hash FROM (
            SELECT *, {_SHA.format("concat(lag(terminal_hash) OVER (ORDER BY seq), payload_hash)")}
                AS due FROM audit_log
        ) AS entry WHERE due <> terminal_hash ORDER BY seq""",
    ),
    Rule(
        "audit.events",
        "audit_log",
        f"""
        SELECT {_KEY}, action, 'no entry with this payload'
        FROM ({_EVENTS}) AS event
        WHERE NOT EXISTS (SELECT FROM audit_log
            WHERE audit_log.action = event.action AND audit_log.payload_hash = event.payload_hash)
        ORDER BY 1, 2""",
    ),
)

RULES = (*LEDGER_RULES, *SOURCE_RULES, *PERIOD_RULES, *TOKEN_RULES, *AUDIT_RULES)
