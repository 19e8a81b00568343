# GNU General Public License v3.0+ (see COPYING)
"""The pinned policy, used statements, windows and the kill switch."""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {
    "0200_policies": """
CREATE TABLE apgms_release.policy (
    stack text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    sha256 text NOT NULL,
    document bytea NOT NULL,
    signers text[] NOT NULL,  -- who signed it, by the policy before it
    pinned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stack, version)
);
CREATE TABLE apgms_release.used_statement (
    nonce text PRIMARY KEY,
    kind text NOT NULL,
    signer text NOT NULL,
    sha256 text NOT NULL,
    manifest_sha256 text,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER policy_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.policy
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
CREATE TRIGGER used_statement_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.used_statement
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
""",
    "0300_windows": """
-- a rollback shuts the window; one reopening, with its evidence, ends that closure
CREATE TABLE apgms_release.window_closure (
    incident_id text PRIMARY KEY,
    stack text NOT NULL,
    reason text NOT NULL,
    source_revision text NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE apgms_release.window_reopening (
    incident_id text PRIMARY KEY REFERENCES apgms_release.window_closure,
    manifest_sha256 text NOT NULL,
    purpose text NOT NULL,
    source_revision text NOT NULL,
    reopened_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- the last row of a stack is the position of its kill switch
CREATE TABLE apgms_release.kill_switch (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stack text NOT NULL,
    engaged boolean NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER window_closure_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.window_closure
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
CREATE TRIGGER window_reopening_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.window_reopening
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
CREATE TRIGGER kill_switch_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.kill_switch
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
""",
}
