-- Add the similarities of a score file.
-- Params: $run_id BIGINT, $validation_set_id INTEGER
INSERT INTO text_scores (run_id, sample_id, validation_set_id, similarity)
SELECT $run_id, sample_id, $validation_set_id, similarity FROM resolved_scores WHERE new_similarity ORDER BY line
