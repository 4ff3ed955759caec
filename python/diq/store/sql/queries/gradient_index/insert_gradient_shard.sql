-- Add a shard to a gradient index.
-- Params: $run_id BIGINT, $shard INTEGER, $file VARCHAR, $n_rows INTEGER, $n_bytes BIGINT, $content_hash VARCHAR,
-- $written_at TIMESTAMP
INSERT INTO gradient_shards (run_id, shard, file, n_rows, n_bytes, content_hash, written_at)
VALUES ($run_id, $shard, $file, $n_rows, $n_bytes, $content_hash, $written_at)
