-- The tables of an APGMS deployment, as its own migrations leave them. Only the local stack and the
-- tests create them; the collection never alters them.
CREATE TABLE periods (
    id bigserial PRIMARY KEY,
    abn text NOT NULL,
    tax_type text NOT NULL CHECK (tax_type IN ('PAYGW', 'GST')),
    period_id text NOT NULL,
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN (
        'OPEN', 'CLOSING', 'READY_RPT', 'BLOCKED_DISCREPANCY', 'BLOCKED_ANOMALY', 'RELEASED',
        'FINALIZED')),
    basis text NOT NULL DEFAULT 'ACCRUAL',
    accrued_cents bigint NOT NULL DEFAULT 0,
    credited_to_owa_cents bigint NOT NULL DEFAULT 0,
    final_liability_cents bigint NOT NULL DEFAULT 0,
    merkle_root text,
    running_balance_hash text,
    anomaly_vector jsonb NOT NULL DEFAULT '{}',
    thresholds jsonb NOT NULL DEFAULT '{}',
    UNIQUE (abn, tax_type, period_id)
);

CREATE TABLE owa_ledger (
    id bigserial PRIMARY KEY,
    abn text NOT NULL,
    tax_type text NOT NULL,
    period_id text NOT NULL,
    transfer_uuid uuid NOT NULL UNIQUE,
    amount_cents bigint NOT NULL,
    balance_after_cents bigint NOT NULL,
    bank_receipt_hash text,
    prev_hash text,
    hash_after text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX owa_ledger_receipt ON owa_ledger (abn, tax_type, period_id, bank_receipt_hash)
    WHERE bank_receipt_hash IS NOT NULL;
CREATE INDEX owa_ledger_chain ON owa_ledger (abn, tax_type, period_id, id);

CREATE TABLE rpt_tokens (
    id bigserial PRIMARY KEY,
    abn text NOT NULL,
    tax_type text NOT NULL,
    period_id text NOT NULL,
    payload jsonb NOT NULL,
    signature text NOT NULL,
    status text NOT NULL DEFAULT 'ISSUED',
    created_at timestamptz NOT NULL DEFAULT now(),
    payload_c14n text,
    payload_sha256 text
);
CREATE INDEX rpt_tokens_period ON rpt_tokens (abn, tax_type, period_id);

CREATE TABLE audit_log (
    seq bigserial PRIMARY KEY,
    ts timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    payload_hash text NOT NULL,
    prev_hash text,
    terminal_hash text NOT NULL
);

CREATE TABLE remittance_destinations (
    id bigserial PRIMARY KEY,
    abn text NOT NULL,
    label text NOT NULL,
    rail text NOT NULL,
    reference text NOT NULL,
    account_bsb text,
    account_number text,
    UNIQUE (abn, rail, reference)
);

CREATE TABLE idempotency_keys (
    key text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_status text,
    response_hash text
);
