-- A ranking by what it was computed from.
-- Params: $fingerprint VARCHAR
SELECT ranking_id FROM rankings WHERE fingerprint = $fingerprint
