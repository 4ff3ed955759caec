-- Where the embeddings of the samples of a validation set lie, in its order.
-- Params: $run_id BIGINT, $validation_set_id INTEGER
SELECT g.shard, g."row"
FROM gradient_rows AS g
JOIN validation_samples AS v ON v.sample_id = g.sample_id AND v.validation_set_id = $validation_set_id
WHERE g.run_id = $run_id AND g.shard IS NOT NULL
ORDER BY v.position
