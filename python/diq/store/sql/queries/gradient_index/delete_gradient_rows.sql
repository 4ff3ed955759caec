-- Forget the samples of a shard.
-- Params: $run_id BIGINT, $shard INTEGER
DELETE FROM gradient_rows WHERE run_id = $run_id AND shard = $shard
