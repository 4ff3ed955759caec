-- Add the perplexities of a score file.
-- Params: $run_id BIGINT
INSERT INTO text_scores (run_id, sample_id, perplexity)
SELECT $run_id, sample_id, perplexity FROM resolved_scores WHERE new_perplexity ORDER BY line
