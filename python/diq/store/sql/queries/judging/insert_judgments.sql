-- Add scores that were read from replies, except those that are there.
-- Reads: incoming (run_id, item_id VARCHAR, dimension, score, rationale)
INSERT INTO judgments (run_id, item_id, dimension, score, rationale)
SELECT i.run_id, CAST(i.item_id AS UUID), i.dimension, i.score, i.rationale
FROM incoming AS i
ANTI JOIN judgments AS j
    ON j.run_id = i.run_id AND j.item_id = CAST(i.item_id AS UUID) AND j.dimension = i.dimension
