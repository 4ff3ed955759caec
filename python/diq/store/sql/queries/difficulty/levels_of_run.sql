-- Samples of a dataset at each level that a difficulty run gave.
-- Params:  $dataset VARCHAR, $run_id BIGINT
-- Returns: dimension, level, n
SELECT v.dimension, v.level, v.n
FROM difficulty_levels AS v
WHERE v.dataset = $dataset AND v.run_id = $run_id
ORDER BY v.dimension, v.level
