-- Where the embeddings of the samples of a dataset lie, in its order.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT d.position, g.shard, g."row"
FROM gradient_rows AS g
JOIN dataset_samples AS d ON d.sample_id = g.sample_id AND d.dataset_id = $dataset_id
WHERE g.run_id = $run_id AND g.shard IS NOT NULL
ORDER BY d.position
