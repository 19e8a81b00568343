# GNU General Public License v3.0+ (see COPYING)
"""Releases, claims, receipts, the journal and the lease."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {
    "0100_releases": """
CREATE FUNCTION apgms_release.refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'apgms_release.% is append-only', TG_TABLE_NAME;
END $$;

-- document: the canonical bytes that the object journal/<seq> holds too
CREATE TABLE apgms_release.journal (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    event text NOT NULL,
    manifest_sha256 text,
    document bytea NOT NULL,
    sha256 text NOT NULL UNIQUE,
    prev_sha256 text NOT NULL UNIQUE
);
CREATE INDEX journal_manifest ON apgms_release.journal (manifest_sha256, seq);
CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.journal
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();

-- token: the fencing token, one higher with each holder; holder NULL: free
CREATE TABLE apgms_release.lease (
    stack text PRIMARY KEY,
    token bigint NOT NULL,
    holder text,
    purpose text,
    manifest_sha256 text,
    since timestamptz,
    expires_at timestamptz
);

-- one row per manifest that was ever to be sent
CREATE TABLE apgms_release.release (
    manifest_sha256 text PRIMARY KEY,
    submission_id text NOT NULL UNIQUE,
    idempotency_key text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('INTENT', 'SENDING', 'UNKNOWN', 'NOT_TAKEN', 'PENDING',
        'ACKNOWLEDGED', 'PARTIAL', 'REJECTED')),
    why text NOT NULL,
    endpoint text NOT NULL,
    body_sha256 text NOT NULL,
    operator text NOT NULL,
    intent_at timestamptz NOT NULL,
    attempts integer NOT NULL,
    first_sent_at timestamptz,
    last_sent_at timestamptz,
    job_id text,
    receipt_sha256 text,
    changed_at timestamptz NOT NULL,
    journal_seq bigint NOT NULL  -- the row of the last change
);

-- who may send what: a period and an RPT belong to one manifest until it is verifiably rejected
CREATE TABLE apgms_release.claim (
    manifest_sha256 text NOT NULL REFERENCES apgms_release.release,
    rpt_id bigint NOT NULL,
    abn text NOT NULL,
    tax_type text NOT NULL,
    period_id text NOT NULL,
    payload_sha256 text NOT NULL,
    amount_cents bigint NOT NULL,
    outcome text CHECK (outcome IN ('accepted', 'rejected')),
    outcome_reason text,
    PRIMARY KEY (manifest_sha256, rpt_id)
);
CREATE UNIQUE INDEX claim_period ON apgms_release.claim (abn, tax_type, period_id)
    WHERE outcome IS DISTINCT FROM 'rejected';
CREATE UNIQUE INDEX claim_payload ON apgms_release.claim (payload_sha256)
    WHERE outcome IS DISTINCT FROM 'rejected';

-- every receipt as it was received, whatever it turned out to be
CREATE TABLE apgms_release.receipt (
    sha256 text PRIMARY KEY,
    manifest_sha256 text NOT NULL,
    document bytea NOT NULL,
    verdict text NOT NULL,
    received_at timestamptz NOT NULL
);
""",
}
