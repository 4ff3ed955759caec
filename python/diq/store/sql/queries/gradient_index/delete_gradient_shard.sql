-- Forget a shard: its samples are missing again.
-- Params: $run_id BIGINT, $shard INTEGER
DELETE FROM gradient_shards WHERE run_id = $run_id AND shard = $shard
