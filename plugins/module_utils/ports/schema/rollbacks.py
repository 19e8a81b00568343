# GNU General Public License v3.0+ (see COPYING)
"""Rollbacks, mirrored rows, incidents, amendment obligations and the outbox."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {
    "rollbacks-1": """
-- one row per rollback, written in its transaction; the head after it follows with its proof
CREATE TABLE apgms_release.rollback (
    plan_sha256 text PRIMARY KEY,
    incident_id text NOT NULL UNIQUE,
    target_sha256 text NOT NULL,
    target_tree_size bigint NOT NULL,
    tree_size_before bigint NOT NULL,
    root_before text NOT NULL,
    balances_sha256 text NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    applied_at timestamptz NOT NULL,
    tree_size_after bigint,
    root_after text,
    proven_at timestamptz
);

-- the primary key is the rule: a row of owa_ledger is mirrored once, whatever is repeated
CREATE TABLE apgms_release.mirror (
    original_id bigint PRIMARY KEY,
    mirror_uuid uuid NOT NULL
);
CREATE TRIGGER mirror_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.mirror
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();

-- rows after the target's snapshot that stay: acknowledged payouts of the releases that stand
CREATE TABLE apgms_release.standing_payout (
    plan_sha256 text NOT NULL REFERENCES apgms_release.rollback,
    ledger_id bigint NOT NULL,
    PRIMARY KEY (plan_sha256, ledger_id)
);

-- releases that a rollback went behind; none of them can be a target again
CREATE TABLE apgms_release.undone (
    manifest_sha256 text PRIMARY KEY REFERENCES apgms_release.release,
    plan_sha256 text NOT NULL REFERENCES apgms_release.rollback
);

-- what the authority holds and the books no longer carry; amount and outcome stand in the claim
CREATE TABLE apgms_release.obligation (
    manifest_sha256 text NOT NULL,
    rpt_id bigint NOT NULL,
    plan_sha256 text NOT NULL REFERENCES apgms_release.rollback,
    PRIMARY KEY (manifest_sha256, rpt_id),
    FOREIGN KEY (manifest_sha256, rpt_id) REFERENCES apgms_release.claim
);

-- document: the canonical bytes that the object incidents/<incident_id>.json holds too
CREATE TABLE apgms_release.incident (
    incident_id text PRIMARY KEY,
    opened_at timestamptz NOT NULL,
    document bytea NOT NULL
);
CREATE TRIGGER incident_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.incident
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();

-- notices to people and trackers; a notice is queued in the transaction of what it tells
CREATE TABLE apgms_release.outbox (
    notice_id text PRIMARY KEY,
    topic text NOT NULL CHECK (topic IN ('release', 'rollback', 'incident')),
    document bytea NOT NULL,
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    delivered_at timestamptz
);
""",
    "rollbacks-2": """
-- how many rows it appended: where its own end in the log is, whatever is admitted with them
ALTER TABLE apgms_release.rollback ADD COLUMN entries bigint NOT NULL DEFAULT 0;
""",
}
