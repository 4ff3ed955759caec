-- Record a comparison.
-- Params: $run_id BIGINT, $name, $config VARCHAR, $created_at TIMESTAMP
-- Returns: comparison_id BIGINT
INSERT INTO comparisons (comparison_id, run_id, name, config, created_at)
SELECT nextval('comparison_ids'), $run_id, $name, $config, $created_at
RETURNING comparison_id
