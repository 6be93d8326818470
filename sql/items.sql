-- Signed items, as the last signature left them; the ledger's entries say what they must be. One row for each version.
CREATE TABLE ledger.items (
    item_type TEXT NOT NULL CHECK (item_type IN ('tool', 'directive', 'knowledge')),
    item_id TEXT NOT NULL,
    version TEXT NOT NULL,
    location_path TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata JSONB NOT NULL DEFAULT '{}',
    language TEXT,
    integrity_hash VARCHAR(64) NOT NULL,
    signed_at TIMESTAMPTZ NOT NULL,
    entry_id UUID NOT NULL,
    depends_on JSONB NOT NULL DEFAULT '[]',
    revoked_at TIMESTAMPTZ,
    revoked_reason TEXT,
    revoked BOOLEAN NOT NULL GENERATED ALWAYS AS (revoked_at IS NOT NULL) STORED,
    PRIMARY KEY (item_type, item_id, version)
) USING heap;

CREATE VIEW ledger.verifier_cache AS
SELECT entries, valid, invalid, capacity, hits, misses FROM ledger.verifier_cache_state();

COMMENT ON TABLE ledger.items IS 'the registry of signed tools, directives and knowledge, with all their versions';
COMMENT ON COLUMN ledger.items.location_path IS 'path below .ai/tools, .ai/directives or .ai/knowledge';
COMMENT ON COLUMN ledger.items.content IS 'the text with its signature line';
COMMENT ON COLUMN ledger.items.metadata IS 'a tool''s manifest, a directive''s metadata, or knowledge''s category, entry_type and tags';
COMMENT ON COLUMN ledger.items.language IS 'the language in whose comment syntax a tool''s signature line is written, if the file extension is not to decide';
COMMENT ON COLUMN ledger.items.entry_id IS 'the newest entry of the ledger about the item';
COMMENT ON COLUMN ledger.items.depends_on IS 'the items that it calls, each pinned by its integrity hash';
COMMENT ON VIEW ledger.verifier_cache IS 'this session''s cache of verified items, and how often it was used';
