-- Dots of one sample in every influence run of a model, one row a validation set.
-- Params: $sample_id VARCHAR, $model_id VARCHAR
-- Returns: run_id BIGINT, method VARCHAR, config VARCHAR, validation_set VARCHAR, dot DOUBLE (null: there is none)
SELECT r.run_id, r.method, CAST(r.config AS VARCHAR) AS config, v.name AS validation_set, i.dot
FROM influence_scores AS i
JOIN runs AS r USING (run_id)
JOIN validation_sets AS v USING (validation_set_id)
WHERE i.sample_id = CAST($sample_id AS UUID) AND r.kind = 'influence' AND r.model_id = $model_id
ORDER BY r.run_id, v.validation_set_id
