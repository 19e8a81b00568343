# GNU General Public License v3.0+ (see COPYING)
"""The transparency log over owa_ledger: its heads, and which ledger ids stand where in the tree.

The object store is the log's record; these tables say what this database has seen of it.
"""

from __future__ import annotations

MIGRATIONS: dict[str, str] = {
    "0200_ledger_log": """
-- columns: those of owa_ledger that the leaves of this snapshot cover, in order
CREATE TABLE apgms_release.ledger_checkpoint (
    origin text NOT NULL,
    tree_size bigint NOT NULL,
    root bytea NOT NULL,
    note bytea NOT NULL,
    columns text[] NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, tree_size)
);
CREATE TRIGGER ledger_checkpoint_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.ledger_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();

-- ids first_id to last_id, none missing between, at the positions from first_position on
CREATE TABLE apgms_release.ledger_extent (
    origin text NOT NULL,
    first_position bigint NOT NULL,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL,
    PRIMARY KEY (origin, first_position),
    UNIQUE (origin, first_id)
);
CREATE TRIGGER ledger_extent_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON apgms_release.ledger_extent
    FOR EACH STATEMENT EXECUTE FUNCTION apgms_release.refuse_rewrite();
""",
    "0300_log_documents": """
-- of the object snapshot/<tree_size>; NULL: recorded by a version that did not keep it
ALTER TABLE apgms_release.ledger_checkpoint ADD COLUMN document_sha256 text;
""",
    "0400_ledger_gaps": """
-- the ids, where some between first_id and last_id are missing; NULL: none is
ALTER TABLE apgms_release.ledger_extent ADD COLUMN ids bigint[];
ALTER TABLE apgms_release.ledger_extent ALTER COLUMN ids SET STORAGE EXTERNAL;
""",
}
