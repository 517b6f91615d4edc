-- Before Microsoft is asked to renew a token, the try is noted; the write of what came takes the note away. A note found at the next
-- try means that the one before did not come to an end. A file that has shipped is frozen.

ALTER TABLE refresh_tokens ADD COLUMN intent_id BLOB;                          -- random, one per try
ALTER TABLE refresh_tokens ADD COLUMN intent_at INTEGER;                       -- when it began
ALTER TABLE refresh_tokens ADD COLUMN interrupted INTEGER NOT NULL DEFAULT 0;  -- tries in a row without an end
