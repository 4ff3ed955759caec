-- Add the text scores of a shard, except those that are there (another validation set may be new).
-- Reads: incoming (run_id, sample_id BLOB, validation_set_id, perplexity, similarity, value, n_tokens, reason)
INSERT INTO text_scores (run_id, sample_id, validation_set_id, perplexity, similarity, value, n_tokens, reason)
SELECT
    i.run_id,
    CAST(i.sample_id AS UUID),
    i.validation_set_id,
    i.perplexity,
    i.similarity,
    i.value,
    i.n_tokens,
    i.reason
FROM incoming AS i
ANTI JOIN text_scores AS s
    ON s.run_id = i.run_id
    AND s.sample_id = CAST(i.sample_id AS UUID)
    AND s.validation_set_id IS NOT DISTINCT FROM i.validation_set_id
