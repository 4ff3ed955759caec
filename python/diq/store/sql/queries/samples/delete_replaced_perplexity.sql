-- Forget the perplexities that a score file changes; insert_resolved_perplexity follows.
-- Params: $run_id BIGINT
DELETE FROM text_scores
WHERE run_id = $run_id AND sample_id IN (SELECT sample_id FROM resolved_scores WHERE new_perplexity)
