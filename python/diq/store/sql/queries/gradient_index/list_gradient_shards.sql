-- Shards of the gradient index of a run.
-- Params: $run_id BIGINT
SELECT shard, file, n_rows, n_bytes, content_hash FROM gradient_shards WHERE run_id = $run_id ORDER BY shard
