-- Add the scores of a shard, except those that are there (a set that was added later shares its samples' rows).
-- Reads: incoming (run_id, sample_id BLOB, validation_set_id, dot, fold_dots, gradient_norm, loss, answer_tokens,
-- reason)
INSERT INTO influence_scores (
    run_id, sample_id, validation_set_id, dot, fold_dots, gradient_norm, loss, answer_tokens, reason
)
SELECT
    i.run_id,
    CAST(i.sample_id AS UUID),
    i.validation_set_id,
    i.dot,
    i.fold_dots,
    i.gradient_norm,
    i.loss,
    i.answer_tokens,
    i.reason
FROM incoming AS i
ANTI JOIN influence_scores AS s
    ON s.run_id = i.run_id
    AND s.sample_id = CAST(i.sample_id AS UUID)
    AND s.validation_set_id = i.validation_set_id
