-- The comparison of the same arms, texts, samples and seed by the same run.
-- Params: $run_id BIGINT, $config VARCHAR
SELECT comparison_id FROM comparisons WHERE run_id = $run_id AND CAST(config AS VARCHAR) = $config
