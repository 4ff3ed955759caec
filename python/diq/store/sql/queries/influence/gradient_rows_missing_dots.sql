-- Samples of a dataset that are in a gradient index and lack a dot of a run with any of the validation sets.
-- Params: $dataset_id INTEGER, $index_run_id BIGINT, $run_id BIGINT, $validation_set_ids INTEGER[]
-- Returns: shard INTEGER (null: no gradient), row INTEGER, sample_id BLOB (16 bytes), loss DOUBLE, answer_tokens INTEGER, reason VARCHAR
WITH have AS (
    SELECT sample_id, count(*) AS n
    FROM influence_scores
    WHERE run_id = $run_id AND list_contains($validation_set_ids, validation_set_id)
    GROUP BY sample_id
)
SELECT g.shard, g."row", CAST(g.sample_id AS BLOB) AS sample_id, g.loss, g.answer_tokens, g.reason
FROM gradient_rows AS g
JOIN dataset_samples AS d ON d.sample_id = g.sample_id AND d.dataset_id = $dataset_id
LEFT JOIN have AS h ON h.sample_id = g.sample_id
WHERE g.run_id = $index_run_id AND coalesce(h.n, 0) < len($validation_set_ids)
ORDER BY g.shard NULLS FIRST, g."row"
