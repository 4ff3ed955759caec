-- Add the predictions of a rater, except those that are there.
-- Reads: incoming (run_id, sample_id BLOB, validation_set_id, dot, dot_low, dot_high, reason)
INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot, dot_low, dot_high, reason)
SELECT i.run_id, CAST(i.sample_id AS UUID), i.validation_set_id, i.dot, i.dot_low, i.dot_high, i.reason
FROM incoming AS i
ANTI JOIN influence_scores AS s
    ON s.run_id = i.run_id
    AND s.sample_id = CAST(i.sample_id AS UUID)
    AND s.validation_set_id = i.validation_set_id
