-- Have a ranking made anew by the next selection.
-- Params: $ranking_id BIGINT
UPDATE rankings SET scores_digest = NULL, fingerprint = 'damaged' WHERE ranking_id = $ranking_id
